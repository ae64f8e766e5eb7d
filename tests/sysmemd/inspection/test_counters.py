"""What has happened since the daemon began."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sysmem_protocol.metrics import exposition
from sysmem_protocol.sysmem2 import BufferCollection, Node

from ..channels.support import wanting
from .support import Look


@pytest.fixture
def look() -> Iterator[Look]:
    look = Look()
    yield look
    look.close()


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
