"""`sysmemctl capture`: record what a daemon holds and all that happens, with what the messages say."""

from __future__ import annotations

import argparse
import sys
from datetime import UTC, datetime
from typing import Final

from .. import __version__
from ._recording import VERSION, Writer
from ._source import happening, inspector, say_lost
from ._text import count
from ._trouble import Trouble

#: Why a capture ends.
_INTERRUPTED: Final = "interrupted"
_TIME: Final = "time"
_DAEMON: Final = "daemon"


def run(options: argparse.Namespace) -> int:
    """Record until somebody interrupts, the time is over, or the daemon ends."""
    with inspector(options) as connected, Writer(options.file) as file:
        # The watch comes first, so that nothing is missed between both.
        with connected.watch(traffic=True, bodies=True, timeout=options.timeout) as events:
            snapshot = connected.snapshot(timeout=options.timeout)
            file.write(
                {"capture": VERSION, "version": __version__, "at": _now(), "snapshot": snapshot}
            )
            print(f"sysmemctl: capturing into {options.file}", file=sys.stderr, flush=True)
            written = 0
            why = _TIME
            trouble: Trouble | None = None
            try:
                for event in happening(events, options.seconds):
                    file.write(event)
                    written += 1
                    if event["event"] == "lost":
                        say_lost(event)
            except KeyboardInterrupt:
                why = _INTERRUPTED
            except Trouble as ended:
                why, trouble = _DAEMON, ended
        last = None if trouble else connected.snapshot(timeout=options.timeout)
        file.write({"event": "end", "at": _now(), "why": why, "snapshot": last})
    print(f"sysmemctl: captured {count(written, 'event')}", file=sys.stderr)
    if trouble is not None:
        raise trouble
    return 0


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
