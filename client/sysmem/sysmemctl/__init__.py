"""The command `sysmemctl`: look after a daemon from a shell, a script or a health check.

A room above client and daemon: nothing imports it. The commands are declared in :mod:`._commands`; each is run by a
module of its own, which is imported when the command is given. Commands that talk to a daemon load nothing of its code.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from sysmem_protocol.channel import PeerClosedError

from .._errors import DaemonUnavailableError, SysmemError
from ._commands import parser
from ._trouble import Trouble

__all__ = ["main", "parser"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns the exit status: 0 when it is done; 1 without a daemon, without such a collection, or for a check that
    failed. A wrong command line exits with 2.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # it was closed when this began
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115  # as long as this runs
    options = parser().parse_args(arguments)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except (Trouble, DaemonUnavailableError, SysmemError, PeerClosedError) as error:
        return _complain(str(error))
    except TimeoutError:
        return _complain(f"no answer within {options.timeout:g} s")
    except BrokenPipeError:
        # Whoever read the output has seen enough (`sysmemctl list | head -1`): let the interpreter flush nothing.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return 130  # as a shell reports SIGINT
    return status


def _complain(reason: str) -> int:
    print(f"sysmemctl: {reason}", file=sys.stderr)
    return 1
