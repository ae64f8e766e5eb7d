"""Handing out buffers and tracking their lifetimes; `docs/spec/allocation.md`, "Strong and weak" and "Lifetime"."""

from __future__ import annotations

import errno
import os

import pytest
from tests.sysmemd.slow import SlowWork

from sysmem_protocol.handles import Handle
from sysmemd.memory import locks, vmo
from sysmemd.ports import NoMemoryError
from sysmemd.tree.trackings import Trackings

from .harness import (
    CAMERA,
    READ,
    READ_WRITE,
    VIEWER,
    Bench,
    few_descriptors,
    is_closed,
    pair,
    present,
)


def test_strong_handles_that_are_promised_keep_the_buffers_whoever_leaves(bench: Bench) -> None:
    buffers = bench.allocate(2)
    ((_, event), _) = bench.weak(buffers)
    redeem, again = buffers.promise_strong(), buffers.promise_strong()
    buffers.drop_strong()
    redeem()
    bench.quiet()
    assert not is_closed(event)
    assert bench.no_strong == []
    promised = bench.strong(buffers)
    again()
    bench.quiet()
    assert bench.states() == {"strong": 2}
    for handle in promised:
        handle.close()
    bench.wait_closed(event)
    bench.wait(lambda: bench.no_strong == [42])


def test_a_promise_that_is_redeemed_changes_nothing(bench: Bench) -> None:
    buffers = bench.allocate()
    buffers.promise_strong()()
    assert bench.states() == {"server": 1}


def test_a_strong_participant_gets_a_vmo_and_no_event(bench: Bench) -> None:
    for entry in bench.keep(bench.allocate(3).hand_out(READ, weak=False, client=CAMERA)):
        assert entry.vmo is not None
        assert entry.close_weak_asap is None


def test_a_weak_participant_gets_both(bench: Bench) -> None:
    for entry in bench.keep(bench.allocate(3).hand_out(READ, weak=True, client=CAMERA)):
        assert entry.vmo is not None
        assert not is_closed(present(entry.close_weak_asap))


def test_a_weak_participant_without_usage_gets_the_event_without_vmo(bench: Bench) -> None:
    buffers = bench.allocate(2)
    entries = bench.keep(buffers.hand_out(READ, weak=True, client=CAMERA, delivers_vmo=False))
    assert [entry.vmo for entry in entries] == [None, None]
    buffers.drop_strong()
    bench.wait_closed(present(entries[1].close_weak_asap))


def test_a_strong_participant_without_usage_gets_an_empty_entry_a_buffer(bench: Bench) -> None:
    buffers = bench.allocate(2)
    entries = buffers.hand_out(READ, weak=False, client=CAMERA, delivers_vmo=False)
    assert [(entry.vmo, entry.close_weak_asap) for entry in entries] == [(None, None)] * 2


def test_a_weak_participant_that_asks_later_gets_what_is_left(bench: Bench) -> None:
    buffers = bench.allocate(3)
    kept, weakly_kept, lost = bench.strong(buffers)
    ((first, _), _, (third, _)) = bench.weak(buffers)
    buffers.drop_strong()
    weakly_kept.close()
    lost.close()
    third.close()
    # None of this has been processed as an event: the kernel gives the answer.
    entries = bench.keep(buffers.hand_out(READ, weak=True, client=VIEWER))
    assert not is_closed(present(entries[0].close_weak_asap))
    assert entries[0].vmo is not None
    assert is_closed(present(entries[1].close_weak_asap))
    assert entries[1].vmo is None
    assert entries[2].vmo is None
    assert entries[2].close_weak_asap is None
    assert kept
    assert first


def test_a_weak_participant_without_usage_asking_later_sees_the_same_events(bench: Bench) -> None:
    buffers = bench.allocate(2)
    (_, (second, _)) = bench.weak(buffers)
    buffers.drop_strong()
    second.close()
    entries = bench.keep(buffers.hand_out(READ, weak=True, client=VIEWER, delivers_vmo=False))
    assert is_closed(present(entries[0].close_weak_asap))
    assert entries[1].close_weak_asap is None


def test_nobody_gets_a_strong_handle_when_none_is_left(bench: Bench) -> None:
    buffers = bench.allocate()
    bench.weak(buffers)
    buffers.drop_strong()
    (entry,) = buffers.hand_out(READ_WRITE, weak=False, client=CAMERA)
    assert (entry.vmo, entry.close_weak_asap) == (None, None)


def test_128_strong_and_128_weak_handles(bench: Bench) -> None:
    buffers = bench.allocate(128)
    strong = bench.strong(buffers)
    weak = bench.weak(buffers)
    gone = bench.tracker(buffers)
    assert len({os.fstat(handle.fileno()).st_ino for handle in strong}) == 128
    buffers.drop_strong()
    for handle in strong:
        handle.close()
    bench.wait(lambda: all(is_closed(event) for _, event in weak))
    bench.quiet()
    assert bench.no_strong == [42]
    assert buffers.existing == 128
    for handle, _ in weak:
        handle.close()
    bench.wait_closed(gone)
    assert buffers.existing == 0


@pytest.mark.parametrize("spare", range(4))
@pytest.mark.parametrize("weak", [False, True])
def test_out_of_descriptors_while_handing_out(bench: Bench, weak: bool, spare: int) -> None:
    buffers = bench.allocate(4)
    before = set(os.listdir("/proc/self/fd"))
    with few_descriptors(spare), pytest.raises(NoMemoryError, match="Too many open files"):
        buffers.hand_out(READ, weak=weak, client=CAMERA)
    bench.quiet()
    assert set(os.listdir("/proc/self/fd")) == before
    bench.strong(buffers)


def test_a_handle_that_cannot_be_marked_is_not_handed_out(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    buffers = bench.allocate()
    monkeypatch.setattr(locks, "mark", full)
    with pytest.raises(NoMemoryError, match="no locks available"):
        buffers.hand_out(READ, weak=True, client=CAMERA)


def test_an_unforeseen_error_while_handing_out_leaves_nothing_open(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffers = bench.allocate(2)
    reopen, calls = vmo.reopen, []

    def second_fails(fd: int, *, writable: bool) -> Handle:
        calls.append(fd)
        if len(calls) == 2:
            raise ZeroDivisionError
        return reopen(fd, writable=writable)

    monkeypatch.setattr(vmo, "reopen", second_fails)
    with pytest.raises(ZeroDivisionError):
        buffers.hand_out(READ, weak=False, client=CAMERA)


# --- lifetime -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("remaining", [0, 1, 2, 3])
def test_a_tracker_closes_when_at_most_so_many_buffers_exist(bench: Bench, remaining: int) -> None:
    buffers = bench.allocate(4)
    strong = bench.strong(buffers)
    tracker = bench.tracker(buffers, remaining)
    buffers.drop_strong()
    for index, handle in enumerate(strong):
        bench.quiet()
        assert is_closed(tracker) == (4 - index <= remaining)
        handle.close()
        bench.wait(lambda left=3 - index: buffers.existing == left)  # type: ignore[misc] # a default
    assert is_closed(tracker)


@pytest.mark.parametrize("remaining", [2, 3, 0xFFFFFFFF])
def test_a_tracker_of_as_many_as_there_are_closes_at_once(bench: Bench, remaining: int) -> None:
    assert is_closed(bench.tracker(bench.allocate(2), remaining))


def test_a_tracker_attached_when_all_is_gone_closes_at_once(bench: Bench) -> None:
    buffers = bench.allocate(2)
    buffers.drop_strong()
    assert is_closed(bench.tracker(buffers))


def test_who_asks_is_called_once_when_all_is_gone(bench: Bench) -> None:
    buffers = bench.allocate()
    called: list[str] = []
    buffers.when_gone(lambda: called.append("later"))
    assert called == []
    buffers.drop_strong()
    bench.wait(lambda: not buffers.existing)
    buffers.when_gone(lambda: called.append("at once"))
    assert called == ["later", "at once"]


def test_all_trackers_of_one_number_close_together(bench: Bench) -> None:
    buffers = bench.allocate()
    trackers = [bench.tracker(buffers) for _ in range(3)]
    buffers.drop_strong()
    bench.wait(lambda: all(map(is_closed, trackers)))


def test_a_tracker_whose_client_leaves_while_others_are_served_is_forgotten(bench: Bench) -> None:
    """A check of many buffers gives way to other work, and meanwhile the node drops the event."""
    work = SlowWork()
    buffers = bench.allocate(16)
    strong = bench.strong(buffers)
    buffers.drop_strong()
    near, far = pair()
    trackings = Trackings()
    trackings.add_lifetime(bench.memory.event(near), 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sysmemd.pause.give_way", work.pause)
        work.do(lambda: trackings.hand_over(buffers))
        assert work.pending == 1
        far.close()
        bench.memory.process_events()
        assert near.closed
        work.go_on()
    for handle in strong:
        handle.close()
    bench.wait(lambda: not buffers.existing)


def test_buffers_say_what_they_are(bench: Bench) -> None:
    buffers = bench.allocate(2, name="preview")
    assert repr(buffers) == "<Buffers of 42 'preview': 2 of 2 exist>"
    assert buffers.count == 2
