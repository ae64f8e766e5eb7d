"""However much a client asks for, the daemon doesn't work on it for long without letting others go on.

Between two places where work gives way it makes at most :data:`MOST` calls of functions, which is less than a
millisecond (`docs/spec/robustness.md`, "Fair turns").
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sysmem_protocol import sysmem2
from sysmem_protocol.images2 import ColorSpace, PixelFormat
from sysmem_protocol.sysmem2 import BufferCollection, BufferCollectionToken

from .channels.support import SAME_RIGHTS, Bench, Client
from .slow import Stretches
from .tree.world import World

MOST = 2000
#: How many nodes one message makes at most.
AT_ONCE = 64
MANY = 1024


@pytest.fixture
def stretches() -> Stretches:
    return Stretches()


@pytest.fixture
def bench(stretches: Stretches) -> Iterator[Bench]:
    made = Bench(do=stretches.do)
    yield made
    made.close()


def duplicates(bench: Bench, token: Client, count: int) -> list[Client]:
    request = sysmem2.CreateTokensRequest(rights_attenuation_masks=[SAME_RIGHTS] * AT_ONCE)
    return [
        bench.adopt(handle)
        for _ in range(count // AT_ONCE)
        for handle in token.call(BufferCollectionToken.duplicate_sync, request).tokens
    ]


def test_many_tokens_at_once(bench: Bench, stretches: Stretches) -> None:
    duplicates(bench, bench.token(), AT_ONCE)
    assert stretches.longest <= MOST


def test_a_large_tree_that_fails(bench: Bench, stretches: Stretches) -> None:
    root = bench.token()
    tokens = duplicates(bench, root, MANY)
    root.close()
    stretches.longest = 0
    bench.run()
    assert all(token.is_closed() for token in tokens)
    assert stretches.longest <= MOST / 2


def test_many_who_waited_for_a_collection(stretches: Stretches) -> None:
    """Each of its channels does, when a large tree fails."""
    collection = World().collection
    told: list[None] = []
    with collection.changing():
        for _ in range(MANY):
            collection.when_idle(lambda: told.append(None))
    stretches.do(collection.settle)
    assert len(told) == MANY
    assert stretches.longest <= MOST / 2


def test_a_large_message(bench: Bench, stretches: Stretches) -> None:
    """No list in it is long."""
    collection = bench.collection()
    formats = [
        sysmem2.ImageFormatConstraints(
            pixel_format=PixelFormat.DO_NOT_CARE,
            color_spaces=list(ColorSpace)[:16],
            required_max_size_list=[sysmem2.SizeU(side, side) for side in range(1, 33)],
        )
        for _ in range(64)
    ]
    stretches.longest = 0
    collection.send(
        BufferCollection.set_constraints,
        sysmem2.BufferCollectionSetConstraintsRequest(
            constraints=sysmem2.BufferCollectionConstraints(
                usage=sysmem2.BufferUsage(cpu=sysmem2.CpuUsage.READ_OFTEN),
                image_format_constraints=formats,
            )
        ),
    )
    bench.run()
    assert stretches.longest <= MOST
