"""Eager allocation: pages are allocated in pieces, alternating between all allocations."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from sysmem_protocol.handles import Handle
from sysmemd.memory import MemfdHeap, available
from sysmemd.memory.collection import Buffers
from sysmemd.memory.reserve import KEPT_BYTES, PIECE_BYTES
from sysmemd.ports import NoMemoryError

from .harness import PAGE, Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    with closing(Bench(allocation="eager")) as made:
        yield made


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the size of each piece that was allocated, in bytes and in order."""
    taken: list[int] = []
    reserve = MemfdHeap.reserve

    def note(heap: MemfdHeap, handle: Handle, start: int, length: int) -> None:
        taken.append(length)
        reserve(heap, handle, start, length)

    monkeypatch.setattr(MemfdHeap, "reserve", note)
    return taken


def used(bench: Bench) -> int:
    return bench.memory.statistics().heaps[0].used_bytes


def turns(bench: Bench, made: list[Any]) -> int:
    """Give an allocation turns until it is done. Return their number."""
    count = 0
    while not made:
        count += 1
        bench.clock.run_next()
    return count


def test_little_is_taken_at_once(bench: Bench, pieces: list[int]) -> None:
    (made,) = bench.begin(8, size=PIECE_BYTES // 8)
    assert isinstance(made, Buffers)
    assert pieces == [PIECE_BYTES // 8] * 8
    assert bench.clock.next_due() is None
    for handle in bench.strong(made):
        assert os.fstat(handle.fileno()).st_blocks * 512 == PIECE_BYTES // 8


def test_much_is_taken_piece_by_piece(bench: Bench, pieces: list[int]) -> None:
    size = PIECE_BYTES + PIECE_BYTES // 2
    made = bench.begin(3, size=size)
    assert pieces == [PIECE_BYTES]
    assert not made
    assert turns(bench, made) == 4
    half = PIECE_BYTES // 2
    assert pieces == [PIECE_BYTES, half, PIECE_BYTES // 2, PIECE_BYTES, PIECE_BYTES, half]
    assert isinstance(made[0], Buffers)
    for handle in bench.strong(made[0]):
        assert os.fstat(handle.fileno()).st_blocks * 512 == size


def test_several_allocations_take_turns(bench: Bench) -> None:
    big = bench.begin(size=100 * PIECE_BYTES)
    small = bench.begin(size=3 * PIECE_BYTES)
    other = bench.begin(size=3 * PIECE_BYTES)
    assert not small
    assert turns(bench, small) <= 6
    assert turns(bench, other) <= 1
    assert not big


def test_an_allocation_that_nobody_wants_any_more_is_given_up(bench: Bench) -> None:
    wanted = True
    made = bench.begin(2, size=2 * PIECE_BYTES, is_wanted=lambda: wanted)
    bench.clock.run_next()
    wanted = False
    assert turns(bench, made) == 1
    assert str(made[0]) == "the allocation is no longer wanted"
    bench.wait(lambda: used(bench) == 0)


def test_memory_that_runs_out_on_the_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    made = bench.begin(2, size=2 * PIECE_BYTES)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    assert used(bench) == 4 * PIECE_BYTES
    monkeypatch.setattr(os, "posix_fallocate", full)
    assert turns(bench, made) == 1
    assert isinstance(made[0], NoMemoryError)
    assert "buffer 0 of 2, 4194304 bytes: [Errno 28] No space left" in str(made[0])
    bench.wait(lambda: used(bench) == 0)


def left(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(available, "memory_bytes", lambda: size + KEPT_BYTES)


def test_what_is_left_is_asked_first(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    left(monkeypatch, 2 * PAGE)
    with pytest.raises(
        NoMemoryError, match="12288 bytes cannot be reserved, 8192 are left besides 33554432"
    ):
        bench.allocate(3)
    assert used(bench) == 0
    bench.allocate(2)


def test_what_is_left_is_asked_again_on_the_way(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench.begin(size=3 * PIECE_BYTES)
    left(monkeypatch, PIECE_BYTES - 1)
    turns(bench, made)
    assert isinstance(made[0], NoMemoryError)
    assert "2097152 bytes cannot be reserved, 2097151 are left" in str(made[0])


def test_what_others_are_about_to_take_counts(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    left(monkeypatch, 4 * PIECE_BYTES)
    first = bench.begin(size=4 * PIECE_BYTES)
    with pytest.raises(NoMemoryError, match=f"{PIECE_BYTES} are left"):
        bench.allocate(size=PIECE_BYTES + PAGE)
    second = bench.begin(size=PIECE_BYTES)
    turns(bench, first)
    assert isinstance(second[0], Buffers)


def test_a_fault_of_ours_ends_that_allocation_alone(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = bench.begin(size=3 * PIECE_BYTES)
    with monkeypatch.context() as patch:
        patch.setattr(MemfdHeap, "reserve", lambda *_: 1 // 0)
        turns(bench, made)
    assert isinstance(made[0], ZeroDivisionError)
    bench.allocate(size=3 * PIECE_BYTES)


@pytest.mark.parametrize("count", [1, 2])
def test_the_end_of_the_daemon_on_the_way(
    bench: Bench, count: int, open_files: Callable[[], set[str]]
) -> None:
    made = [bench.begin(size=3 * PIECE_BYTES) for _ in range(count)]
    bench.clock.run_next()
    bench.memory.close()
    assert not any("memfd" in name for name in open_files())
    bench.clock.advance(1 << 40)
    assert made == [[]] * count


@pytest.fixture
def open_files() -> Callable[[], set[str]]:
    """Return the objects of this process's descriptors."""

    def names() -> set[str]:
        found = set()
        for fd in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # that one read the directory
                found.add(os.readlink(f"/proc/self/fd/{fd}"))
        return found

    return names
