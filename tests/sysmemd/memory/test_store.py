"""Allocation: heaps, limits, clean failures (`docs/spec/linux.md`, "Heaps" and "Limits of the process")."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from unittest.mock import Mock

import pytest

from sysmem_protocol.handles import Handle
from sysmem_protocol.sysmem2 import SYSTEM_RAM_HEAP, CoherencyDomain, Heap
from sysmemd.memory import (
    SYSTEM_RAM,
    HeapSettings,
    HeapStatistics,
    MemfdHeap,
    MemoryStatistics,
    locks,
    vmo,
)
from sysmemd.memory.buffer import RETRY_NS
from sysmemd.memory.watch import InodeWatch, Reports
from sysmemd.ports import NoMemoryError

from .harness import CAMERA, PAGE, READ, Bench, few_descriptors, is_closed, pair, settings

TEE = HeapSettings("vendor.HEAP_TYPE.TEE", 3, secure=True, max_bytes=8 * PAGE)


@pytest.fixture
def tee() -> MemfdHeap:
    return MemfdHeap(TEE)


def test_the_system_heap_always_exists(bench: Bench) -> None:
    assert bench.memory.statistics() == MemoryStatistics(
        heaps=(HeapStatistics(SYSTEM_RAM.heap_type, 0, 0, None),), collections=0, buffers={}
    )
    bench.allocate(heap=Heap(heap_type=SYSTEM_RAM_HEAP.heap_type))


def test_a_configured_system_heap_takes_its_place() -> None:
    heap = MemfdHeap(HeapSettings(SYSTEM_RAM.heap_type, max_bytes=PAGE))
    bench = Bench(heap)
    with pytest.raises(NoMemoryError, match="limit of 4096"):
        bench.allocate(2)
    bench.close()


def test_buffers_come_from_the_heap_of_the_settings(tee: MemfdHeap) -> None:
    bench = Bench(tee)
    bench.allocate(2, size=2 * PAGE, heap=Heap(heap_type=TEE.heap_type, id=3))
    bench.allocate(1, size=3 * PAGE)
    assert bench.memory.statistics() == MemoryStatistics(
        heaps=(
            HeapStatistics(TEE.heap_type, 3, 4 * PAGE, 8 * PAGE),
            HeapStatistics(SYSTEM_RAM.heap_type, 0, 3 * PAGE, None),
        ),
        collections=2,
        buffers={"server": 3},
    )
    assert [(heap.properties, count) for heap, count in bench.memory.heaps()] == [
        (TEE, 2),
        (SYSTEM_RAM, 1),
    ]
    bench.close()


@pytest.mark.parametrize("heap", [Heap(heap_type="nowhere"), Heap(heap_type=TEE.heap_type, id=4)])
def test_a_heap_that_is_not_there(tee: MemfdHeap, heap: Heap) -> None:
    bench = Bench(tee)
    with pytest.raises(NoMemoryError, match="there is no heap"):
        bench.allocate(heap=heap)
    bench.close()


def test_that_contiguous_memory_is_simulated_is_said_once() -> None:
    bench = Bench(MemfdHeap(HeapSettings("vendor.BLOCKS", contiguous=True)))
    for heap in (Heap(heap_type="vendor.BLOCKS"), SYSTEM_RAM_HEAP, SYSTEM_RAM_HEAP):
        wanted = settings(PAGE, heap)
        wanted.buffer_settings.is_physically_contiguous = True
        bench.memory.allocate(
            collection_id=42,
            name="frames",
            settings=wanted,
            count=1,
            on_no_strong=lambda: None,
            done=lambda _: None,
        )
        assert bool(bench.log.events("info")) == (heap is SYSTEM_RAM_HEAP)
    assert len(bench.log.events("info")) == 1
    bench.close()


def test_a_heaps_limit_holds_until_memory_is_reclaimed(tee: MemfdHeap) -> None:
    bench = Bench(tee)
    heap = Heap(heap_type=TEE.heap_type, id=3)
    first = bench.allocate(3, size=2 * PAGE, heap=heap)
    with pytest.raises(NoMemoryError, match="limit of 32768, 32768 are in use"):
        bench.allocate(2, size=2 * PAGE, heap=heap)
    assert tee.used_bytes == 6 * PAGE
    ((weak, _), (second, _), (third, _)) = bench.weak(first)
    first.drop_strong()
    second.close()
    third.close()
    # Two of three are gone, which takes effect at once.
    bench.allocate(3, size=2 * PAGE, heap=heap)
    with pytest.raises(NoMemoryError):
        bench.allocate(1, heap=heap)
    weak.close()
    bench.allocate(1, size=2 * PAGE, heap=heap)
    assert tee.used_bytes == 8 * PAGE
    bench.close()


def test_lazy_memory_takes_pages_at_first_use_and_eager_at_once(bench: Bench) -> None:
    (lazy,) = bench.strong(bench.allocate(size=16 * PAGE))
    assert os.fstat(lazy.fileno()).st_blocks == 0
    eager_bench = Bench(allocation="eager")
    (eager,) = eager_bench.strong(eager_bench.allocate(size=16 * PAGE))
    assert os.fstat(eager.fileno()).st_blocks * 512 == 16 * PAGE
    eager_bench.close()


def test_eager_memory_that_is_not_there_fails_at_once() -> None:
    bench = Bench(allocation="eager")
    with pytest.raises(NoMemoryError, match="cannot be reserved"):
        bench.allocate(size=1 << 50)
    assert bench.states() == {}
    bench.close()


@pytest.mark.parametrize("size", [(1 << 62) + PAGE, (1 << 64) - PAGE])
def test_a_size_that_no_file_has(bench: Bench, size: int) -> None:
    with pytest.raises(NoMemoryError, match="more than the maximum size of a buffer"):
        bench.allocate(size=size)


def test_handle_bytes_lie_beyond_the_largest_buffer(bench: Bench) -> None:
    assert locks.FIRST_BYTE >= vmo.MAX_BYTES
    bench.strong(bench.allocate(size=vmo.MAX_BYTES))


@pytest.mark.parametrize("spare", range(6))
def test_out_of_descriptors_while_allocating(bench: Bench, spare: int) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with few_descriptors(spare), pytest.raises(NoMemoryError, match="Too many open files"):
        bench.allocate(8)
    assert set(os.listdir("/proc/self/fd")) == before
    assert bench.memory.statistics().heaps[0].used_bytes == 0
    bench.memory.process_events()
    bench.allocate(8)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM, errno.ENFILE])
@pytest.mark.parametrize("where", [(InodeWatch, "watch_end"), (locks, "guard")])
def test_out_of_watches_or_locks_while_allocating(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, where: tuple[object, str], number: int
) -> None:
    owner, name = where
    original, calls = getattr(owner, name), []

    def second_fails(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError(number, os.strerror(number))
        return original(*arguments)

    monkeypatch.setattr(owner, name, second_fails)
    with pytest.raises(NoMemoryError, match="buffer 1 of 3"):
        bench.allocate(3)
    assert bench.memory.statistics().heaps[0].used_bytes == 0
    assert bench.states() == {}


@pytest.mark.parametrize(
    ("error", "told"), [(MemoryError, NoMemoryError), (ZeroDivisionError, ZeroDivisionError)]
)
def test_an_unforeseen_error_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: type[Exception], told: type[Exception]
) -> None:
    def fails(*_: object) -> None:
        raise error

    monkeypatch.setattr(locks, "guard", fails)
    with pytest.raises(told):
        bench.allocate()
    assert bench.memory.statistics().heaps[0].used_bytes == 0


def test_a_heap_of_another_make(bench: Bench) -> None:
    class File:
        """A heap that does not use memfds: any class with the interface will do."""

        properties = HeapSettings("file", domains=frozenset({CoherencyDomain.CPU}))
        used_bytes = 0
        deleted: list[int] = []  # noqa: RUF012 - of one test

        def allocate(self, name: str, size: int, *, writable: bool = True) -> Handle:
            self.used_bytes += size
            return vmo.create(f"file {name}", size)

        def reserve(self, handle: Handle, start: int, length: int) -> None:
            raise AssertionError("nobody asked for that")

        def delete(self, size: int) -> None:
            self.deleted.append(size)

    heap = File()
    own = Bench(heap)
    buffers = own.allocate(2, heap=Heap(heap_type="file"))
    handle, other = own.strong(buffers)
    assert "file frames:0" in os.readlink(f"/proc/self/fd/{handle.fileno()}")
    other.close()
    buffers.drop_strong()
    own.quiet()
    assert heap.deleted == [PAGE]
    own.close()


def test_a_full_daemon_wide_end(bench: Bench) -> None:
    buffers = bench.allocate(2)
    ((weak, event), _) = bench.weak(buffers)
    tracker = bench.tracker(buffers)
    other = bench.allocate(1, collection_id=9)
    bench.strong(other)
    other.drop_strong()
    bench.weak(bench.allocate(1, collection_id=10))[0][0].close()
    empty = bench.allocate(1, collection_id=11)
    bench.tracker(empty)
    bench.weak(empty)
    empty.drop_strong()
    near, late = pair()
    signal = bench.memory.event(near)
    bench.memory.close()
    bench.memory.close()
    assert bench.memory.statistics().collections == 0
    assert is_closed(event)
    assert is_closed(tracker)
    # Calls that a tree may still make while everything is closed:
    buffers.drop_strong()
    buffers.track_lifetime(signal, 0)
    assert is_closed(late)
    late.close()
    assert buffers.hand_out(READ, weak=True, client=CAMERA)[0].vmo is None
    bench.clock.advance(1 << 40)
    assert bench.no_strong == []
    assert bench.log.errors() == []
    assert fcntl.fcntl(weak.fileno(), fcntl.F_GETFL) & os.O_RDWR, "theirs stays"


def test_a_number_that_went_to_another_buffer_stays_that_ones(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    # After the reports were read, the first may end and its number be reused.
    monkeypatch.setattr(vmo, "identity", lambda _: (1, 2))
    first, second = bench.allocate(), bench.allocate(collection_id=43)
    (handle,) = bench.strong(second)
    first.drop_strong()
    bench.quiet()
    assert bench.states() == {"server": 1}
    info = bench.memory.identify(handle.fileno())
    assert info is not None
    assert info.collection_id == 43
    monkeypatch.undo()


def test_the_descriptor_to_wait_on(bench: Bench) -> None:
    buffers = bench.allocate()
    assert not bench.is_awake()
    bench.memory.process_events()
    buffers.drop_strong()
    assert bench.is_awake()
    bench.quiet()
    assert not bench.is_awake()


def test_out_of_descriptors_at_start() -> None:
    before = set(os.listdir("/proc/self/fd"))
    for spare in range(4):
        with few_descriptors(spare), pytest.raises(OSError, match=r"\[Errno 24\]"):
            Bench()
    assert set(os.listdir("/proc/self/fd")) == before


def test_too_many_inotify_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    from sysmemd import inotify

    class Libc:
        def inotify_init1(self, flags: int) -> int:
            return -1

    monkeypatch.setattr(inotify, "_libc", Libc())
    with pytest.raises(OSError):  # noqa: PT011 - whatever errno was
        Bench()


@pytest.mark.parametrize("what", ["watch_closings", "any_left"])
def test_what_can_not_be_asked_is_asked_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The question is whether a handle is left, or the request to be told of a close. The failure is logged once."""

    def fails(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    with monkeypatch.context() as patch:
        patch.setattr(InodeWatch if what == "watch_closings" else locks, what, fails)
        buffers.drop_strong()
        bench.clock.advance(60_000_000_000)
        [fields] = bench.log.errors()
        assert fields["buffer_index"] == 0
        strong.close()
        bench.memory.process_events()
        assert bench.states() == {"strong": 1}
    bench.clock.advance(RETRY_NS)
    bench.quiet()
    assert bench.states() == {}


@pytest.mark.parametrize("calls", [1, 5])
def test_reports_that_can_not_be_read_come_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, calls: int
) -> None:
    """Nothing is lost, even while buffers are handed out or tracked."""

    def fails(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(InodeWatch, "read", fails)
        buffers = bench.allocate()
        (strong,) = bench.strong(buffers)
        near, far = pair()
        buffers.track_lifetime(bench.memory.event(near), 0)
        buffers.drop_strong()
        strong.close()
        with pytest.raises(OSError, match="Input/output"):
            bench.memory.identify(far.fileno())
    assert set(bench.log.events("error")) == {"close events of buffers cannot be read now"}
    bench.quiet()
    assert bench.states() == {}
    far.close()


def test_what_can_not_be_made_up_for_now_is_later(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel drops reports, and is then too short of memory to tell which buffers are left."""
    buffers = bench.allocate()
    (strong,) = bench.strong(buffers)
    buffers.drop_strong()
    bench.clock.advance(1 << 40)
    read = InodeWatch.read

    def drops(watch: InodeWatch, most: int) -> Reports:
        return Reports(overflow=bool(read(watch, most)))

    with monkeypatch.context() as patch:
        patch.setattr(InodeWatch, "read", drops)
        patch.setattr(InodeWatch, "alive", Mock(side_effect=OSError("no memory")))
        strong.close()
        bench.allocate(collection_id=43)
        assert bench.log.errors() == [{"reason": "no memory"}]
    bench.allocate(collection_id=44)
    bench.wait(lambda: bench.states() == {"server": 2})


def test_others_are_served_while_many_reports_are_read(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_way = Mock()
    monkeypatch.setattr("sysmemd.memory.store.give_way", give_way)
    buffers = bench.allocate(20)
    buffers.drop_strong()
    bench.allocate()
    assert len(give_way.mock_calls) >= 2


def test_an_allocation_waits_for_freed_memory_once(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much others free, and however often, its client gets an answer."""
    retries: list[Callable[[], None]] = []

    def when_freed(retry: Callable[[], None]) -> bool:
        retries.append(retry)
        return True

    monkeypatch.setattr(bench.memory._reclaimer, "when_freed", when_freed)
    made = bench.begin(heap=Heap(heap_type="nowhere"))
    assert made == []
    [retry] = retries
    retry()
    assert len(retries) == 1
    assert isinstance(made[0], NoMemoryError)


def test_reports_that_are_never_there_are_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers = bench.allocate(2)
    handles = bench.strong(buffers)
    buffers.drop_strong()
    bench.quiet()
    for handle in handles:
        handle.close()
        with monkeypatch.context() as patch:
            patch.setattr(InodeWatch, "read", lambda *_: Reports())
            for _ in range(64):
                assert not bench.memory.is_fruitless
                bench.memory.process_events()
            assert bench.memory.is_fruitless
        bench.memory.process_events()
        assert not bench.memory.is_fruitless
