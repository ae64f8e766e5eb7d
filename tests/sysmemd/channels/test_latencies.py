"""How long messages take, counted by the number of bits."""

from __future__ import annotations

import itertools
import math
from functools import partial

import pytest

from sysmem_protocol.library import Method
from sysmem_protocol.rendezvous import Rendezvous
from sysmem_protocol.sysmem2 import BufferCollection, BufferCollectionToken, Node
from sysmemd.channels.latencies import SUM, Latencies

from .support import Bench, wanting


def test_each_message_is_in_the_buckets_of_longer_bounds() -> None:
    latencies = Latencies()
    for nanoseconds in (0, 2**14 - 1, 2**14, 2**40):
        latencies[Node.sync][nanoseconds.bit_length()] += 1
        latencies[Node.sync][SUM] += nanoseconds
    [(method, buckets, seconds)] = latencies.histograms()
    assert method is Node.sync
    assert buckets[:2] == [(2**14 / 1e9, 2), (2**16 / 1e9, 3)]
    assert buckets[-2:] == [(2**36 / 1e9, 3), (math.inf, 4)]
    assert seconds == (2**15 - 1 + 2**40) / 1e9
    latencies[Rendezvous.take]
    assert [method for method, *_ in latencies.histograms()] == [Node.sync, Rendezvous.take]


def test_a_call_takes_until_it_is_answered_and_other_messages_until_they_are_processed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock advances by 1000 ns each time that it is read."""
    clock = itertools.count(1 << 50, 1000)
    for module in ("answering", "connection", "latencies"):
        monkeypatch.setattr(f"sysmemd.channels.{module}.perf_counter_ns", partial(next, clock))
    latencies = bench.service.tracer.latencies
    token = bench.token()
    other = bench.duplicate(token)
    collection = bench.bind(token)
    collection.send(BufferCollection.set_constraints, wanting())
    waiting = BufferCollection.wait_for_all_buffers_allocated
    collection.send(waiting)
    for _ in range(2):
        collection.sync()
    assert waiting not in latencies
    other.send(Node.release)
    other.close()
    bench.run()

    def took(method: Method) -> tuple[dict[int, int], int]:
        *counts, total = latencies[method]
        return {bits: count for bits, count in enumerate(counts) if count}, total

    for method in (
        BufferCollectionToken.duplicate,
        BufferCollection.set_constraints,
        Node.release,
    ):
        assert took(method) == ({10: 1}, 1000)
    assert took(Node.sync) == ({10: 2}, 2000)
    assert took(waiting) == ({13: 1}, 7000)
