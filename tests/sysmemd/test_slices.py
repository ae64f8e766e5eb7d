"""However much a client asks for, the daemon soon lets other clients proceed.

Between two places where work gives way it makes at most :data:`MOST` calls of functions, which takes less than a
millisecond (`docs/spec/robustness.md`, "Fair turns").
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any, cast

import pytest

from sysmem_protocol import sysmem2
from sysmem_protocol.handles import Handle
from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.sysmem2 import BufferCollection, BufferCollectionToken, Node
from sysmemd.clock import TrioClock
from sysmemd.inspection.inspection import Inspection
from sysmemd.memory.watch import InodeWatch, Reports

from .channels.support import SAME_RIGHTS, Bench, Client
from .memory.harness import Bench as MemoryBench
from .memory.harness import is_closed
from .recording import RecordingLog
from .slow import Stretches
from .tree.world import Event, World

MOST = 2600
#: The maximum number of nodes that one message creates.
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
    """When a large tree fails, each of its channels waits."""
    collection = World().collection
    told: list[None] = []
    with collection.changing():
        for _ in range(MANY):
            collection.when_idle(lambda: told.append(None))
    stretches.do(collection.settle)
    assert len(told) == MANY
    assert stretches.longest <= MOST / 2


def wanting(
    formats: list[sysmem2.ImageFormatConstraints] | None = None, **others: Any
) -> sysmem2.BufferCollectionSetConstraintsRequest:
    return sysmem2.BufferCollectionSetConstraintsRequest(
        constraints=sysmem2.BufferCollectionConstraints(
            usage=sysmem2.BufferUsage(cpu=sysmem2.CpuUsage.READ_OFTEN),
            buffer_memory_constraints=sysmem2.BufferMemoryConstraints(min_size_bytes=4096),
            image_format_constraints=formats,
            **others,
        )
    )


def one_of_many(number: int, sides: range) -> sysmem2.ImageFormatConstraints:
    """Return an entry for an unknown format, with short lists."""
    return sysmem2.ImageFormatConstraints(
        pixel_format=cast(PixelFormat, 1000 + number),
        pixel_format_modifier=PixelFormatModifier.DO_NOT_CARE,
        color_spaces=list(ColorSpace)[:16],
        required_max_size_list=[sysmem2.SizeU(1000 + side, 2000 - side) for side in sides],
    )


@pytest.mark.parametrize("allocated", [False, True])
def test_many_trackings_of_one_node(stretches: Stretches, allocated: bool) -> None:
    """They move to the buffers, or close with the node."""
    world = World()
    world.bind(world.root)
    events = [Event() for _ in range(MANY)]
    for event in events:
        world.root.attach_lifetime_tracking(event, 0)
    stretches.do(lambda: world.ready(world.root) if allocated else world.root.client_closed())
    assert [event.closed for event in events] == [not allocated] * MANY
    assert stretches.longest <= MOST / 2


@pytest.mark.parametrize("verbose", [False, True])
def test_a_large_message_and_what_is_said_of_it(
    bench: Bench, stretches: Stretches, verbose: bool
) -> None:
    """None of its lists is long."""
    collection = bench.collection()
    if verbose:
        collection.send(Node.set_verbose_logging)
    collection.send(
        BufferCollection.set_constraints,
        wanting([one_of_many(number, range(32)) for number in range(64)]),
    )
    bench.run()
    assert stretches.longest <= MOST


def test_many_participants_who_disagree(bench: Bench, stretches: Stretches) -> None:
    root, allocator = bench.token(), bench.allocator()
    tokens = duplicates(bench, root, AT_ONCE)
    collections = [bench.bind(token, allocator) for token in tokens]
    root.send(Node.set_verbose_logging)
    root.send(Node.release)
    bench.run()
    root.close()
    stretches.longest = 0
    for number, collection in enumerate(collections):
        formats = [one_of_many(format, range(2)) for format in range(4)]
        disagreement = {"max_buffer_count" if number % 2 else "min_buffer_count": 1 + number % 2}
        collection.send(
            BufferCollection.set_constraints,
            wanting(formats, **disagreement, min_buffer_count_for_camping=1),
        )
    bench.run()
    assert collections[0].is_closed()
    assert stretches.longest <= MOST


def test_many_buffers(bench: Bench, stretches: Stretches) -> None:
    """They are created, delivered and freed."""
    collection = bench.collection()
    collection.send(BufferCollection.set_constraints, wanting(min_buffer_count=AT_ONCE))
    collection.send(BufferCollection.wait_for_all_buffers_allocated, txid=1)
    bench.reactor.receive_all()
    stretches.do(bench.run)
    with ExitStack() as stack:
        answer = collection.answer(BufferCollection.wait_for_all_buffers_allocated, 1)
        for buffer in answer.buffer_collection_info.buffers:
            stack.callback(buffer.vmo.close)
    assert stretches.longest <= MOST
    stretches.longest = 0
    collection.close()
    bench.run()
    while bench.memory.statistics().collections:
        stretches.do(bench.memory.process_events)
        stretches.do(bench.clock.run_due)
    assert stretches.longest <= MOST


@pytest.fixture
def memory() -> Iterator[MemoryBench]:
    with closing(MemoryBench()) as made:
        yield made


def run(memory: MemoryBench, stretches: Stretches, until: Callable[[], bool]) -> None:
    """Do what is due, one call after the other, until something is true."""
    stretches.longest = 0
    while not until():
        stretches.do(memory.memory.process_events)
        if (due := memory.clock.next_due()) is not None and due <= memory.clock.now():
            stretches.do(memory.clock.run_next)


def test_many_trackings_that_end_with_the_buffers(
    memory: MemoryBench, stretches: Stretches
) -> None:
    buffers = memory.allocate()
    trackers = [memory.tracker(buffers) for _ in range(MANY)]
    buffers.drop_strong()
    run(memory, stretches, lambda: all(map(is_closed, trackers)))
    assert stretches.longest <= MOST / 2


def hold_many(memory: MemoryBench) -> list[Handle]:
    """The only handles to many buffers."""
    held = []
    for _ in range(8):
        buffers = memory.allocate(AT_ONCE)
        held += memory.strong(buffers)
        buffers.drop_strong()
    memory.quiet()
    return held


def test_an_allocation_after_many_buffers_were_let_go(
    memory: MemoryBench, stretches: Stretches
) -> None:
    """All of them count as free memory."""
    for handle in hold_many(memory):
        handle.close()
    stretches.longest = 0
    stretches.do(memory.begin)
    assert memory.states() == {"server": 1}
    assert stretches.longest <= MOST / 2


def test_a_check_of_many_buffers_because_reports_were_lost(
    memory: MemoryBench, stretches: Stretches, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = hold_many(memory)
    reports = [Reports(overflow=True)]
    monkeypatch.setattr(InodeWatch, "read", lambda *_: reports.pop() if reports else Reports())
    held[-1].close()
    run(memory, stretches, lambda: memory.states()["strong"] < len(held))
    assert not reports
    assert stretches.longest <= MOST / 2


def test_a_snapshot_of_many_nodes(bench: Bench, stretches: Stretches) -> None:
    duplicates(bench, bench.token(), MANY)
    [collection] = bench.service.collections.values()
    user = bench.service.parties[collection.id].owner.user
    inspection = Inspection(bench.service)
    made: list[Any] = []
    stretches.longest = 0
    stretches.do(lambda: inspection.snapshot(None, user, made.append))
    stretches.do(lambda: inspection.explain(collection.id, user, made.append))
    for document in made:
        assert isinstance(document, Handle)
        document.close()
    assert stretches.longest <= MOST / 2


def test_many_calls_that_are_due(stretches: Stretches) -> None:
    clock = TrioClock(RecordingLog(), lambda: 1)
    called: list[None] = []
    for _ in range(MANY):
        clock.call_at(1, lambda: called.append(None))
    while len(called) < MANY:
        assert clock.seconds_left() == 0
        before = len(called)
        clock.call_due()
        assert len(called) - before <= 16
    assert clock.seconds_left() is None
