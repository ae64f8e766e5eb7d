"""The events since the daemon's start."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from sysmem_protocol.metrics import exposition
from sysmem_protocol.sysmem2 import BufferCollection, Node
from sysmemd.channels.connection import Tracer
from sysmemd.inspection.counters import BOUNDS, Counters

from ..channels.support import wanting
from .support import Look


def test_attempts_refusals_ends_and_messages(look: Look) -> None:
    agreed = look.bench.allocated()
    refused = look.bench.collection()
    refused.send(BufferCollection.set_constraints, wanting(most=1))
    agreed.sync()
    agreed.send(Node.release)
    look.run()
    agreed.close()
    look.run()
    counters = look.snapshot()["counters"]
    assert counters["attempts"] == {"success": 1, "CONSTRAINTS_INTERSECTION_EMPTY": 1}
    assert counters["refusals"] == {"COUNT_OVER_MAX": 1}
    assert counters["ended"] == {"released": 1, "failed": 1}
    assert counters["messages"] == {"in": 9, "out": 1}
    histogram = counters["negotiation_seconds"]
    assert histogram["count"] == histogram["buckets"][-1][1] == 2
    assert histogram["buckets"][-1][0] == "+Inf"
    assert histogram["sum"] > 0
    assert exposition(look.snapshot()).endswith("# EOF\n")


def test_the_first_attempt_tells_how_long_a_negotiation_took() -> None:
    counters = Counters(Tracer(), tuple)
    for milliseconds in (1, 1.5, 61_000):
        attempts = [
            SimpleNamespace(at=5 * 10**9 + int(late * 1e6), error=None, refused=(), allocation=())
            for late in (milliseconds, 3000)
        ]
        collection: Any = SimpleNamespace(created=5 * 10**9, attempts=attempts)
        for attempt in attempts:
            counters.attempted(collection, attempt)  # type: ignore[arg-type] # all that is looked at
    told = counters.told()
    assert told["attempts"] == {"success": 6}
    histogram = told["negotiation_seconds"]
    assert [count for _, count in histogram["buckets"]] == [1] + [2] * (len(BOUNDS) - 1) + [3]
    assert sorted(BOUNDS) == list(BOUNDS)
    assert histogram["sum"] == pytest.approx(61.0025)
