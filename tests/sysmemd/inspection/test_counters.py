"""The events since the daemon's start."""

from __future__ import annotations

import itertools
import os
from types import SimpleNamespace
from typing import Any

import pytest

from sysmem_protocol.handles import Handle
from sysmem_protocol.metrics import exposition, lines
from sysmem_protocol.sysmem2 import BufferCollection, Node
from sysmemd.channels.connection import Tracer
from sysmemd.channels.errors import Failed
from sysmemd.inspection.answers import name_users
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
    look.bench.token().sync()
    counters = look.snapshot()["counters"]
    assert counters["attempts"] == {"success": 1, "CONSTRAINTS_INTERSECTION_EMPTY": 1}
    assert counters["refusals"] == {"COUNT_OVER_MAX": 1}
    assert counters["ended"] == {"released": 1, "failed": 1}
    assert counters["messages"] == {"in": 12, "out": 2}
    [sync] = [each for each in counters["message_seconds"] if each["method"] == "Sync"]
    assert (sync["protocol"], sync["count"]) == ("Node", 2)
    histogram = counters["negotiation_seconds"]
    assert histogram["count"] == histogram["buckets"][-1][1] == 2
    assert histogram["buckets"][-1][0] == "+Inf"
    assert histogram["sum"] > 0
    assert exposition(look.snapshot()).endswith("# EOF\n")


@pytest.mark.parametrize("plain", [False, True])
def test_the_numbers_are_metrics(look: Look, plain: bool) -> None:
    look.bench.allocated()
    [user, *_] = look.bench.service.users
    made: list[Handle | Failed] = []
    look.inspection.metrics(user, made.append, plain=plain)
    look.run()
    [vmo] = made
    assert isinstance(vmo, Handle)
    with vmo:
        text = os.pread(vmo.fileno(), 1 << 20, 0).decode()
    snapshot = name_users(look.inspection.described(None))
    # Only the time since the start differs, and the descriptor of the text.
    varying = ("sysmem_uptime_seconds", "sysmem_open_descriptors", "process_")
    written, expected = (
        [line for line in each.splitlines(keepends=True) if not line.startswith(varying)]
        for each in (text, "".join(lines(snapshot, plain=plain)))
    )
    assert written == expected
    assert 'sysmem_attempts_total{outcome="success"} 1\n' in written


def test_the_first_attempt_tells_how_long_a_negotiation_took() -> None:
    counters = Counters(Tracer(), tuple)
    for milliseconds in (1, 1.5, 61_000):
        attempts = [
            SimpleNamespace(at=5 * 10**9 + int(late * 1e6), error=None, refused=[()], allocation=())
            for late in (milliseconds, 3000)
        ]
        collection: Any = SimpleNamespace(created=5 * 10**9, attempts=attempts)
        for attempt in attempts:
            counters.attempted(collection, attempt)  # type: ignore[arg-type] # all that is looked at
    told = counters.told()
    assert told["attempts"] == {"success": 6}
    assert told["refusals"] == {}, "another selection succeeded"
    histogram = told["negotiation_seconds"]
    assert [count for _, count in histogram["buckets"]] == [1] + [2] * (len(BOUNDS) - 1) + [3]
    assert (BOUNDS[0], BOUNDS[-1]) == (0.001, 60)
    assert all(2 <= after / before <= 3 for before, after in itertools.pairwise(BOUNDS))
    assert histogram["count"] == 3
    assert histogram["sum"] == pytest.approx(61.0025)
