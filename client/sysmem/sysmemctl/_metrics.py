"""`sysmemctl metrics`: a daemon's metrics as OpenMetrics text."""

from __future__ import annotations

import argparse
import sys

from sysmem_protocol.metrics import exposition

from ._source import snapshot


def run(options: argparse.Namespace) -> int:
    """Print the metrics of the daemon."""
    sys.stdout.write(exposition(snapshot(options)))
    return 0
