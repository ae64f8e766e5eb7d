"""Buffers of one open file: here memfds whose references the test counts. tests/devices has real dma-bufs."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import closing
from unittest.mock import Mock

import pytest

from sysmem_protocol.handles import Handle
from sysmem_protocol.sysmem2 import Heap
from sysmemd.memory import HeapSettings, MemfdHeap, one_file, vmo
from sysmemd.memory.locks import Kind
from sysmemd.memory.one_file import PAUSES_NS
from sysmemd.ports import NoMemoryError

from .harness import CAMERA, PAGE, READ, READ_WRITE, Bench

HEAP = Heap(heap_type="test.device", id=0)
SETTINGS = HeapSettings("test.device", device="/dev/dma_heap/test", max_bytes=2 * PAGE)


class ReadOnlyHeap(MemfdHeap):
    def _create(self, name: str, size: int, *, writable: bool) -> Handle:
        with vmo.create(name, size) as made:
            return vmo.reopen(made.fileno(), writable=False)


@pytest.fixture
def heap() -> MemfdHeap:
    return MemfdHeap(SETTINGS)


@pytest.fixture
def bench(heap: MemfdHeap) -> Iterator[Bench]:
    with closing(Bench(heap)) as made:
        yield made


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the number of references, or None if they can't be counted."""
    counted = [1]

    def fdinfo(path: str, mode: str, buffering: int) -> io.BytesIO:
        if not counted:
            raise OSError
        return io.BytesIO(b"flags:\t02\ncount:\t%d\nexp_name:\tsystem\n" % counted[0])

    monkeypatch.setattr(one_file, "open", fdinfo, raising=False)
    return counted


def pauses(bench: Bench, count: int) -> list[int]:
    """Make the next calls. Return the pause after which each of them asked for another one."""
    found = []
    for _ in range(count):
        before = bench.clock.now()
        bench.clock.run_next()
        due = bench.clock.next_due()
        assert due is not None
        found += [
            pause for pause in PAUSES_NS if before + pause <= due <= bench.clock.now() + pause
        ]
    return found


def test_references_are_counted_after_growing_pauses_until_only_the_servers_is_left(
    bench: Bench, heap: MemfdHeap, references: list[int]
) -> None:
    buffers = bench.allocate(heap=HEAP)
    bench.strong(buffers)
    assert bench.states() == {"server": 1}
    references[:] = [2]
    buffers.drop_strong()
    assert pauses(bench, 5) == [*PAUSES_NS[1:], PAUSES_NS[-1]]
    references.clear()
    assert pauses(bench, 1) == [PAUSES_NS[-1]]
    buffers.buffers[0].look()
    references[:] = [2]
    assert pauses(bench, 1) == [PAUSES_NS[1]]
    assert bench.states() == {"strong": 1}
    assert bench.no_strong == []
    references[:] = [1]
    bench.clock.run_next()
    bench.wait(lambda: bench.no_strong == [42])
    assert bench.clock.next_due() is None
    assert bench.states() == {}
    assert heap.used_bytes == 0


def test_buffers_that_nobody_else_has_are_gone_at_once(
    bench: Bench, heap: MemfdHeap, references: list[int]
) -> None:
    bench.allocate(2, heap=HEAP).drop_strong()
    bench.wait(lambda: bench.no_strong == [42])
    assert heap.used_bytes == 0


def test_pages_are_taken_at_once_if_the_daemon_does_so() -> None:
    with closing(Bench(MemfdHeap(SETTINGS), allocation="eager")) as bench:
        [handle] = bench.strong(bench.allocate(heap=HEAP))
        assert os.fstat(handle.fileno()).st_blocks * 512 == PAGE


def test_nothing_is_asked_after_the_daemons_end(heap: MemfdHeap, references: list[int]) -> None:
    bench = Bench(heap)
    buffers = bench.allocate(heap=HEAP)
    references[:] = [2]
    buffers.drop_strong()
    bench.close()
    buffers.buffers[0].look()
    assert bench.clock.next_due() is None


def test_there_are_no_weak_handles(bench: Bench) -> None:
    buffers = bench.allocate(heap=HEAP)
    for delivers_vmo in (False, True):
        with pytest.raises(NoMemoryError, match=r"test\.device .* has no weak handles"):
            buffers.hand_out(READ_WRITE, weak=True, client=CAMERA, delivers_vmo=delivers_vmo)
    with pytest.raises(NoMemoryError, match=r"test\.device .* has no weak handles"):
        buffers.buffers[0].open(Kind.WEAK, CAMERA, writable=True)


def test_all_handles_have_the_same_access(bench: Bench) -> None:
    buffers = bench.allocate(heap=HEAP)
    assert buffers.buffers[0].is_strong(bench.strong(buffers)[0].fileno())
    with pytest.raises(NoMemoryError, match="is writable for all holders"):
        bench.strong(buffers, READ)
    other = Bench(ReadOnlyHeap(SETTINGS))
    buffers = other.allocate(heap=HEAP)
    other.strong(buffers, READ)
    with pytest.raises(NoMemoryError, match="is read-only for all"):
        other.strong(buffers)
    other.close()


def test_an_allocation_that_fails_keeps_nothing(
    bench: Bench, heap: MemfdHeap, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NoMemoryError, match="limit"):
        bench.allocate(3, heap=HEAP)
    assert heap.used_bytes == 0
    monkeypatch.setattr(vmo, "identity", Mock(side_effect=OSError("no identity")))
    with pytest.raises(NoMemoryError, match="buffer 0 of 2, 4096 bytes: no identity"):
        bench.allocate(2, heap=HEAP)
    assert heap.used_bytes == 0
