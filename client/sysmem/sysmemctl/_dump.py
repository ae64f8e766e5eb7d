"""`sysmemctl dump`: everything that the daemon holds, and later events."""

from __future__ import annotations

import argparse
import contextlib
import json

from ._source import happening, inspector
from ._text import print_json


def run(options: argparse.Namespace) -> int:
    """Print the snapshot. With `--monitor`, print each event as a line until the daemon ends or the user interrupts."""
    with inspector(options) as connected:
        if not options.monitor:
            print_json(connected.snapshot(timeout=options.timeout))
            return 0
        # Start to watch before taking the snapshot, so that no event is missed between them.
        with (
            contextlib.suppress(KeyboardInterrupt),
            connected.watch(timeout=options.timeout) as events,
        ):
            _line(connected.snapshot(timeout=options.timeout))
            for event in happening(events):
                _line(event)
    return 0


def _line(data: object) -> None:
    print(json.dumps(data), flush=True)
