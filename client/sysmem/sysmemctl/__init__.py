"""The command `sysmemctl`: inspect and control a daemon from a shell, a script or a health check.

This package is built on client and daemon, and neither imports it. :mod:`._commands` declares the commands. Each
command is run by a module of its own, which is imported only when that command is given. Commands that connect to a
daemon import none of the daemon's code.
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

    Returns the exit status: 0 for success; 1 if there is no daemon or no such collection, or if a check failed. An
    invalid command line exits with 2.
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
        # The reader closed the pipe (`sysmemctl list | head -1`). Redirect stdout, so that the final flush cannot
        # fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _complain(str(error))
    except KeyboardInterrupt:
        return 130  # the status by which a shell reports SIGINT
    return status


def _complain(reason: str) -> int:
    print(f"sysmemctl: {reason}", file=sys.stderr)
    return 1
