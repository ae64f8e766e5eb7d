"""`sysmemctl ping`: a health check."""

from __future__ import annotations

import argparse
import time

from .. import blocking
from .._timeouts import deadline, remaining
from ._text import print_json


def run(options: argparse.Namespace) -> int:
    """Connect and wait for an answer."""
    start = time.perf_counter()
    end = deadline(options.timeout)
    with blocking.connect(options.runtime_dir, timeout=remaining(end)) as allocator:
        # No token has koid 0, so the daemon answers, and its state does not change.
        allocator.validate_buffer_collection_token(0, timeout=remaining(end))
    took = time.perf_counter() - start
    if options.json:
        print_json({"answered_s": took})
    else:
        print(f"answered in {took * 1000:.1f} ms")
    return 0
