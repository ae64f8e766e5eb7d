"""`sysmemctl capture`: record what a daemon holds and all that happens, with what the messages say."""

from __future__ import annotations

import argparse
from typing import Final

from . import _look
from ._look import Explainer
from ._recording import Writer, header
from ._source import happening, inspector, say_lost
from ._text import count, remark
from ._trouble import Trouble

#: Why a capture ends.
_INTERRUPTED: Final = "interrupted"
_TIME: Final = "time"
_DAEMON: Final = "daemon"


def run(options: argparse.Namespace) -> int:
    """Record until somebody interrupts, the time is over, or the daemon ends."""
    with (
        inspector(options) as connected,
        Writer(options.file) as file,
        Explainer(options, file.write) as explainer,
    ):
        # The watch comes first, so that nothing is missed between both.
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
                        # What failed is explained at once; the rest may wait, for it costs the daemon time.
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
