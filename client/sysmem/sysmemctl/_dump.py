"""`sysmemctl dump`: all that the daemon holds, and what happens from then on."""

from __future__ import annotations

import argparse
import json
import sys

from ._source import inspector
from ._text import print_json


def run(options: argparse.Namespace) -> int:
    """Print the snapshot; with `--monitor` then each event as a line, until the daemon ends or somebody interrupts."""
    with inspector(options) as connected:
        if not options.monitor:
            print_json(connected.snapshot(timeout=options.timeout))
            return 0
        # The watch comes first, so that nothing is missed between both.
        with connected.watch(timeout=options.timeout) as events:
            _line(connected.snapshot(timeout=options.timeout))
            try:
                for event in events:
                    _line(event)
            except KeyboardInterrupt:
                return 0
    print("sysmemctl: the daemon has ended", file=sys.stderr)
    return 1


def _line(data: object) -> None:
    print(json.dumps(data), flush=True)
