"""`sysmemctl dump`: all that the daemon holds, and what happens from then on."""

from __future__ import annotations

import argparse
import contextlib
import json

from ._source import happening, inspector
from ._text import print_json


def run(options: argparse.Namespace) -> int:
    """Print the snapshot; with `--monitor` then each event as a line, until the daemon ends or somebody interrupts."""
    with inspector(options) as connected:
        if not options.monitor:
            print_json(connected.snapshot(timeout=options.timeout))
            return 0
        # The watch comes first, so that nothing is missed between both.
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
