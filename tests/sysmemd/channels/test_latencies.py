"""How long messages take, counted by the number of bits."""

from __future__ import annotations

import math
from time import perf_counter_ns

from sysmem_protocol.sysmem2 import BufferCollection, Node
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


def test_a_call_takes_until_it_is_answered_and_other_messages_until_they_are_processed() -> None:
    bench = Bench()
    latencies = bench.service.tracer.latencies
    token = bench.token()
    other = bench.duplicate(token)
    collection = bench.bind(token)
    collection.send(BufferCollection.set_constraints, wanting())
    waiting = BufferCollection.wait_for_all_buffers_allocated
    sent = perf_counter_ns()
    collection.send(waiting)
    collection.sync()
    assert {method.wire_name for method in latencies} >= {"Sync", "Duplicate"}
    assert waiting not in latencies
    other.send(Node.release)
    other.close()
    bench.run()
    assert sum(latencies[BufferCollection.set_constraints][:SUM]) == 1
    assert sum(latencies[waiting][:SUM]) == 1
    assert 0 < latencies[waiting][SUM] <= perf_counter_ns() - sent
    assert latencies[waiting][SUM] > latencies[Node.sync][SUM] > 0
    bench.close()
