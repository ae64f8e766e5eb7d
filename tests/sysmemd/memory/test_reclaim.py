"""The last close of a big buffer happens in a thread, and nothing is reported before it is done."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Iterator
from contextlib import closing
from unittest.mock import Mock

import pytest

from sysmem_protocol.handles import Handle
from sysmem_protocol.sysmem2 import Heap
from sysmemd.memory import HeapSettings, MemfdHeap, vmo
from sysmemd.memory.buffer import LEAK_NS, Buffer
from sysmemd.memory.collection import Buffers
from sysmemd.memory.reclaim import INLINE_BYTES, Reclaimer
from sysmemd.memory.watch import Hangups
from sysmemd.ports import NoMemoryError

from .harness import PAGE, Bench, is_closed

BIG = INLINE_BYTES + PAGE
HEAP = Heap(heap_type="few")


class Gate:
    """Holds up closes in the thread, before or after they happen, until it is opened."""

    def __init__(self, patch: pytest.MonkeyPatch, *, after: bool = True) -> None:
        self.opened = threading.Event()
        self.reached = threading.Event()
        close = os.close

        def slow(fd: int) -> None:
            if after:
                close(fd)
            if threading.current_thread() is not threading.main_thread():
                self.reached.set()
                assert self.opened.wait(10)
            if not after:
                close(fd)

        patch.setattr(os, "close", slow)


@pytest.fixture
def hangups() -> Iterator[Hangups]:
    with closing(Hangups()) as made:
        yield made


@pytest.fixture
def reclaimer(hangups: Hangups) -> Iterator[Reclaimer]:
    with closing(Reclaimer(hangups)) as made:
        yield made


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    made = Gate(monkeypatch)
    yield made
    made.opened.set()


def touched(size: int) -> Handle:
    handle = vmo.create("touched", size)
    os.posix_fallocate(handle.fileno(), 0, size)
    return handle


def touch(bench: Bench, buffers: Buffers) -> None:
    """Use all pages of all buffers, and close the handles."""
    for handle in bench.strong(buffers):
        os.posix_fallocate(handle.fileno(), 0, os.fstat(handle.fileno()).st_size)
        handle.close()


def test_small_ones_are_closed_on_the_spot(reclaimer: Reclaimer, gate: Gate) -> None:
    done: list[str] = []
    reclaimer.close_vmo(vmo.create("untouched", 64 * BIG), lambda: done.append("untouched"))
    reclaimer.close_vmo(touched(INLINE_BYTES), lambda: done.append("small"))
    assert done == ["untouched", "small"]
    assert not reclaimer.when_freed(lambda: done.append("freed"))


def test_big_ones_are_closed_in_a_thread_one_after_another(
    hangups: Hangups, reclaimer: Reclaimer, gate: Gate
) -> None:
    done: list[str] = []
    reclaimer.close_vmo(touched(BIG), lambda: done.append("first"))
    assert reclaimer.when_freed(lambda: done.append("freed"))
    reclaimer.close_vmo(touched(BIG), lambda: done.append("second"))
    assert gate.reached.wait(10)
    assert done == []
    gate.opened.set()
    while len(done) < 3:
        select.select([hangups], [], [])
        hangups.process()
    assert done in (["first", "freed", "second"], ["first", "second", "freed"])
    assert not reclaimer.when_freed(lambda: None)


def test_one_whose_end_cannot_be_told_is_closed_all_the_same(
    hangups: Hangups, reclaimer: Reclaimer, gate: Gate
) -> None:
    told: list[str] = []

    def fails() -> None:
        raise ZeroDivisionError

    reclaimer.close_vmo(touched(BIG), fails)
    reclaimer.close_vmo(touched(BIG), lambda: told.append("second"))
    assert gate.reached.wait(10)
    assert reclaimer.when_freed(lambda: told.append("freed"))
    gate.opened.set()
    while len(reclaimer._closed) < 2:
        select.select([hangups], [], [])
    with pytest.raises(ZeroDivisionError):
        hangups.process()
    reclaimer.close_vmo(touched(BIG), lambda: told.append("third"))
    while len(told) < 3:
        select.select([hangups], [], [])
        hangups.process()
    assert sorted(told) == ["freed", "second", "third"]
    assert not reclaimer.when_freed(lambda: None)


def test_one_whose_size_the_kernel_does_not_tell_is_closed_in_a_thread(
    reclaimer: Reclaimer, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = touched(PAGE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", Mock(side_effect=OSError("no memory")))
        reclaimer.close_vmo(small, lambda: None)
    assert gate.reached.wait(10)
    gate.opened.set()


@pytest.mark.usefixtures("no_threads")
def test_without_a_thread_everything_is_closed_on_the_spot(reclaimer: Reclaimer) -> None:
    done: list[str] = []
    reclaimer.close_vmo(touched(BIG), lambda: done.append("big"))
    assert done == ["big"]


def test_the_end_waits_for_what_is_being_freed(gate: Gate) -> None:
    hangups = Hangups()
    reclaimer = Reclaimer(hangups)
    handle = touched(BIG)
    fd = handle.fileno()
    reclaimer.close_vmo(handle, lambda: pytest.fail("nobody is told any more"))
    assert gate.reached.wait(10)
    gate.opened.set()
    reclaimer.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
    hangups.close()


# --- for buffers ---


def test_a_tracker_is_told_when_the_memory_is_back(bench: Bench, gate: Gate) -> None:
    buffers = bench.allocate(size=BIG)
    event = bench.tracker(buffers)
    touch(bench, buffers)
    buffers.drop_strong()
    assert gate.reached.wait(10)
    # The kernel has reported the end of the watch, but the close continues in the thread.
    bench.quiet()
    assert not is_closed(event)
    assert bench.states() == {"unknown": 1}
    gate.opened.set()
    bench.wait_closed(event)
    assert bench.states() == {}


def test_a_tracker_is_told_when_the_end_is_reported_late(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch, after=False)
    buffers = bench.allocate(size=BIG)
    event = bench.tracker(buffers)
    touch(bench, buffers)
    buffers.drop_strong()
    assert gate.reached.wait(10)
    assert not is_closed(event)
    gate.opened.set()
    bench.wait_closed(event)


def let_go_late(bench: Bench, gate: Gate, buffers: Buffers, weak: Handle) -> None:
    """Free the server's memory while the timer for the search for leaks fires."""
    os.posix_fallocate(weak.fileno(), 0, BIG)
    buffers.drop_strong()
    bench.clock.advance(LEAK_NS // 2)
    weak.close()
    bench.quiet()
    assert gate.reached.wait(10)
    bench.clock.advance(LEAK_NS)
    assert bench.log.errors() == []
    gate.opened.set()


def test_memory_that_the_daemon_is_still_freeing_is_not_logged_as_leaked(
    bench: Bench, gate: Gate
) -> None:
    buffers = bench.allocate(size=BIG)
    ((weak, _),) = bench.weak(buffers)
    let_go_late(bench, gate, buffers, weak)
    bench.wait(lambda: bench.states() == {})
    bench.clock.advance(2 * LEAK_NS)
    assert bench.log.errors() == []


def test_memory_that_somebody_holds_after_the_daemon_let_go_is_logged(
    bench: Bench, gate: Gate
) -> None:
    buffers = bench.allocate(size=BIG)
    ((weak, _),) = bench.weak(buffers)
    with Handle(os.open(f"/proc/self/fd/{weak.fileno()}", os.O_RDWR | os.O_CLOEXEC)):
        let_go_late(bench, gate, buffers, weak)
        [buffer] = buffers.buffers
        assert isinstance(buffer, Buffer)
        bench.wait(lambda: not buffer._closing)
        bench.clock.advance(LEAK_NS)
        assert len(bench.log.errors()) == 1
    bench.wait(lambda: bench.states() == {})


def test_an_allocation_waits_for_memory_that_is_being_freed(gate: Gate) -> None:
    bench = Bench(MemfdHeap(HeapSettings("few", max_bytes=2 * BIG)))
    first = bench.allocate(2, size=BIG, heap=HEAP)
    touch(bench, first)
    first.drop_strong()
    assert gate.reached.wait(10)
    fits, does_not = bench.begin(2, size=BIG, heap=HEAP), bench.begin(1, size=3 * BIG, heap=HEAP)
    bench.quiet()
    assert (fits, does_not) == ([], [])
    gate.opened.set()
    bench.wait(lambda: bool(fits and does_not))
    assert isinstance(fits[0], Buffers)
    assert isinstance(does_not[0], NoMemoryError)
    bench.close()


def test_a_failed_allocation_gives_back_what_it_took_in_a_thread(
    gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(allocation="eager")
    calls: list[object] = []

    def third_fails(fd: int, start: int, length: int) -> None:
        calls.append(fd)
        if len(calls) == 3:
            raise OSError(28, "No space left")
        fallocate(fd, start, length)

    fallocate = os.posix_fallocate
    monkeypatch.setattr(os, "posix_fallocate", third_fails)
    made = bench.begin(3, size=BIG)
    assert isinstance(made[0], NoMemoryError)
    assert gate.reached.wait(10)
    assert bench.memory.statistics().heaps[0].used_bytes == 2 * BIG
    gate.opened.set()
    bench.wait(lambda: bench.memory.statistics().heaps[0].used_bytes == 0)
    bench.close()
