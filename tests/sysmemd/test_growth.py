"""One more participant or node costs the daemon as much as the first ones, in calls of functions."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import pytest

from sysmem_protocol import sysmem2
from sysmem_protocol.sysmem2 import BufferCollection, BufferCollectionToken

from .channels.support import SAME_RIGHTS, Bench, Client, wanting
from .slow import Stretches

#: The number of participants or nodes of a large collection.
MANY = 64
NODES = 1024


def duplicates(bench: Bench, token: Client, count: int) -> list[Client]:
    request = sysmem2.CreateTokensRequest(rights_attenuation_masks=[SAME_RIGHTS] * count)
    tokens = token.call(BufferCollectionToken.duplicate_sync, request).tokens
    return [bench.adopt(handle) for handle in tokens]


def get_buffers(bench: Bench, collection: Client, camping: int) -> None:
    collection.send(BufferCollection.set_constraints, wanting(camping=camping))
    bench.run()
    answer = collection.call(BufferCollection.wait_for_all_buffers_allocated)
    for buffer in answer.buffer_collection_info.buffers:
        buffer.vmo.close()


def participants(bench: Bench, count: int) -> None:
    """A negotiation of this many participants, from start to end."""
    allocator = bench.allocator()
    root = bench.token(allocator)
    collections = [
        bench.bind(token, allocator) for token in (*duplicates(bench, root, count - 1), root)
    ]
    for collection in collections[1:]:
        collection.send(BufferCollection.set_constraints, wanting(camping=0))
    get_buffers(bench, collections[0], 2)
    for collection in collections:
        collection.close()
    bench.run()


def attached(bench: Bench, count: int) -> None:
    """A collection to which this many participants attach one after the other."""
    allocator = bench.allocator()
    collection = bench.collection(allocator)
    get_buffers(bench, collection, 2)
    for _ in range(count):
        get_buffers(bench, bench.bind(bench.attach(collection), allocator), 0)


def nodes(bench: Bench, count: int) -> None:
    """A tree of this many nodes."""
    root = bench.token()
    for _ in range(0, count, MANY):
        duplicates(bench, root, MANY)


@pytest.mark.parametrize(
    ("work", "few", "many", "most"),
    [
        pytest.param(participants, 4, MANY, 1.3, id="participant"),
        pytest.param(attached, 4, MANY, 1.1, id="attached participant"),
        pytest.param(nodes, 2 * MANY, NODES, 1.1, id="node"),
    ],
)
def test_the_last_one_costs_what_the_first_ones_cost(
    work: Callable[[Bench, int], None], few: int, many: int, most: float
) -> None:
    """Compare the cost of the later half of `few` and of `many`."""

    def calls(count: int) -> int:
        stretches = Stretches()
        with closing(Bench(do=stretches.do)) as bench:
            work(bench, count)
        return stretches.total

    def each(count: int) -> float:
        return (calls(2 * count) - calls(count)) / count

    first, last = each(few // 2), each(many // 2)
    assert last <= most * first
