"""`sysmemctl capture`: record what a daemon holds and all later events, with the contents of messages."""

from __future__ import annotations

import argparse
from typing import Final

from . import _look
from ._look import Explainer
from ._recording import Writer, header
from ._source import happening, inspector, say_lost
from ._text import count, remark
from ._trouble import Trouble

#: Reasons for the end of a capture.
_INTERRUPTED: Final = "interrupted"
_TIME: Final = "time"
_DAEMON: Final = "daemon"


def run(options: argparse.Namespace) -> int:
    """Record until the user interrupts, the time is over, or the daemon ends."""
    with (
        inspector(options) as connected,
        Writer(options.file) as file,
        Explainer(options, file.write) as explainer,
    ):
        # Start to watch before taking the snapshot, so that no event is missed between them.
        with connected.watch(traffic=True, bodies=True, timeout=options.timeout) as events:
            file.write(header(connected.snapshot(timeout=options.timeout)))
            written = 0
            released: set[int] = set()
            why = _TIME
            trouble: Trouble | None = None
            try:
                remark(f"capturing into {options.file}")
                for event in happening(events, options.seconds):
                    file.write(event)
                    written += 1
                    if event["event"] == "lost":
                        say_lost(event)
                    elif event["event"] == "ended":
                        # Explain failed collections at once. Explaining costs the daemon time, so others come later.
                        if event["how"] == "failed":
                            explainer.explain(event["collection"])
                        else:
                            released.add(event["collection"])
            except KeyboardInterrupt:
                why = _INTERRUPTED
            except Trouble as ended:
                why, trouble = _DAEMON, ended
        last = None if trouble else connected.snapshot(timeout=options.timeout)
        for id in [] if last is None else _look.explicable(last, released):
            explainer.explain(id)
        explainer.finish()
        file.write(_look.end(why, last))
    remark(f"captured {count(written, 'event')}")
    if trouble is not None:
        raise trouble
    return 0
