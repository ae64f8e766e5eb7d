"""The command `sysmemctl`: look after a daemon from a shell or a health check."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

from . import blocking
from ._errors import DaemonUnavailableError, PeerClosedError
from ._timeouts import deadline, remaining, seconds

_WHERE = (
    "where the sockets are (default: $SYSMEM_RUNTIME_DIR, $XDG_RUNTIME_DIR/sysmem, /run/sysmem)"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; its exit status: 0 when all is well, 1 when not, 2 for a wrong command line."""
    options = _parser().parse_args(arguments)
    status: int = options.run(options)
    return status


def ping(options: argparse.Namespace) -> int:
    """Connect and wait for an answer, as a health check."""
    start = time.perf_counter()
    try:
        end = deadline(options.timeout)
        with blocking.connect(options.runtime_dir, timeout=remaining(end)) as allocator:
            # No token has koid 0: an answer, and no trace in the daemon.
            allocator.validate_buffer_collection_token(0, timeout=remaining(end))
    except TimeoutError:
        print(f"sysmemctl: no answer within {options.timeout:g} s", file=sys.stderr)
        return 1
    except (DaemonUnavailableError, PeerClosedError, OSError) as error:
        print(f"sysmemctl: {error}", file=sys.stderr)
        return 1
    print(f"answered in {(time.perf_counter() - start) * 1000:.1f} ms")
    return 0


def _timeout(text: str) -> float | None:
    try:
        return seconds(float(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sysmemctl", description="Looks after a sysmem daemon: a client of its sockets."
    )
    parser.add_argument("--runtime-dir", metavar="DIR", help=_WHERE)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    command = commands.add_parser(
        "ping",
        help="ask the daemon for an answer; the exit status tells whether it came",
        description="Connects and waits for an answer. Exit status 0: it came. 1: no daemon, or no answer in time.",
    )
    # After the command as well; where it isn't given there, the one before counts.
    command.add_argument("--runtime-dir", default=argparse.SUPPRESS, metavar="DIR", help=_WHERE)
    command.add_argument(
        "--timeout",
        type=_timeout,
        default=5.0,
        metavar="SECONDS",
        help="how long to wait (default: 5); 'inf' waits for ever",
    )
    command.set_defaults(run=ping)
    return parser


if __name__ == "__main__":
    sys.exit(main())
