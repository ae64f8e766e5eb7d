"""Which consumer has which buffer: a model with random consumers, and each policy on its own."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sysmem._frames.lending import Consumer, Lending, Policy


class Recorder:
    """A consumer that records its frames, and may have no room."""

    def __init__(self, lending: Lending, policy: Policy, hold: int) -> None:
        self.got: list[int] = []
        self.room = True
        self.consumer = Consumer(policy, hold, self._transmit)
        lending.consumers.append(self.consumer)

    def _transmit(self, message: bytes) -> bool:
        if self.room:
            self.got.append(int(message))
        return self.room


def send(lending: Lending) -> int | None:
    """Send one frame whose message is its number. Return its buffer, or None if none is free."""
    index = lending.take()
    if index is not None:
        lending.lend(index, b"%d" % lending.sent)
    return index


def test_a_buffer_is_free_again_when_everybody_released_it() -> None:
    lending = Lending(1)
    one, other = (Recorder(lending, Policy.WAIT, 1) for _ in range(2))
    assert send(lending) == 0
    lending.release(one.consumer, 0)
    assert lending.take() is None
    lending.release(other.consumer, 0)
    assert lending.take() == 0


def test_a_buffer_is_free_again_when_those_who_have_it_are_gone() -> None:
    lending = Lending(2)
    one = Recorder(lending, Policy.WAIT, 1)
    assert (send(lending), send(lending)) == (0, 1)
    assert one.got == [0]
    lending.remove(one.consumer)
    assert list(lending.free) == [0, 1]


def test_without_consumers_a_frame_frees_its_buffer_at_once() -> None:
    lending = Lending(1)
    assert [send(lending) for _ in range(3)] == [0, 0, 0]


def test_frames_that_wait_are_handed_over_in_order() -> None:
    lending = Lending(3)
    slow = Recorder(lending, Policy.WAIT, 1)
    for _ in range(3):
        send(lending)
    assert lending.take() is None
    for sequence in range(3):
        lending.release(slow.consumer, sequence)
    assert slow.got == [0, 1, 2]


def test_the_oldest_that_waits_is_dropped() -> None:
    lending = Lending(3)
    slow = Recorder(lending, Policy.DROP_OLDEST, 1)
    for _ in range(4):
        assert send(lending) is not None
    lending.release(slow.consumer, 0)
    assert slow.got == [0, 3]
    assert slow.consumer.dropped == 2


def test_the_newest_is_dropped() -> None:
    lending = Lending(3)
    slow = Recorder(lending, Policy.DROP_NEWEST, 2)
    for _ in range(4):
        assert send(lending) is not None
    lending.release(slow.consumer, 0)
    assert send(lending) is not None
    assert slow.got == [0, 1, 4]
    assert slow.consumer.dropped == 2


def test_the_producer_gets_the_buffer_of_a_frame_that_only_waits_and_may_be_missed() -> None:
    lending = Lending(2)
    slow = Recorder(lending, Policy.DROP_OLDEST, 1)
    send(lending), send(lending)
    assert lending.take() == 1
    assert slow.consumer.dropped == 1
    assert lending.take() is None


def test_only_the_oldest_that_waits_is_dropped_for_its_buffer() -> None:
    lending = Lending(3)
    stuck = Recorder(lending, Policy.DROP_NEWEST, 3)
    stuck.room = False
    send(lending), send(lending), send(lending)
    assert lending.take() == 0
    stuck.room = True
    lending.flush()
    assert stuck.got == [1, 2]
    assert stuck.consumer.dropped == 1


def test_a_frame_that_somebody_else_has_is_not_dropped_for_its_buffer() -> None:
    lending = Lending(2)
    slow = Recorder(lending, Policy.DROP_OLDEST, 1)
    Recorder(lending, Policy.WAIT, 2)
    send(lending), send(lending)
    assert lending.take() is None
    assert slow.consumer.dropped == 0


def test_what_has_no_room_is_sent_after_a_release() -> None:
    lending = Lending(3)
    one = Recorder(lending, Policy.WAIT, 3)
    send(lending)
    one.room = False
    send(lending), send(lending)
    one.room = True
    lending.release(one.consumer, 0)
    assert one.got == [0, 1, 2]


def test_all_that_waits_is_handed_over_at_the_end() -> None:
    lending = Lending(4)
    slow = [Recorder(lending, policy, 1) for policy in (Policy.WAIT, Policy.DROP_OLDEST)]
    for _ in range(3):
        send(lending)
    lending.flush()
    assert [each.got for each in slow] == [[0, 1, 2], [0, 2]]


def test_only_what_was_taken_can_be_given_back() -> None:
    lending = Lending(1)
    with pytest.raises(ValueError, match=r"buffer 0 isn't the producer's now: acquire\(\) it"):
        lending.cancel(0)
    assert lending.take() == 0
    lending.cancel(0)
    assert lending.take() == 0


class AnyStream(RuleBasedStateMachine):
    """In any sequence, each buffer is at one place, and no consumer gets a frame twice or out of order."""

    def __init__(self) -> None:
        super().__init__()
        self.lending = Lending(4)
        self.taken: list[int] = []
        self.recorders: list[Recorder] = []

    @rule(policy=st.sampled_from(Policy), hold=st.integers(1, 4))
    @precondition(lambda self: len(self.recorders) < 3)
    def join(self, policy: Policy, hold: int) -> None:
        self.recorders.append(Recorder(self.lending, policy, hold))

    @rule()
    def acquire(self) -> None:
        index = self.lending.take()
        if index is not None:
            assert index not in self.taken
            assert all(
                index != lent.index
                for each in self.recorders
                for lent in (*each.consumer.held.values(), *each.consumer.waiting)
            )
            self.taken.append(index)

    @rule(data=st.data())
    @precondition(lambda self: self.taken)
    def lend_or_cancel(self, data: st.DataObject) -> None:
        index = self.taken.pop(data.draw(st.integers(0, len(self.taken) - 1)))
        if data.draw(st.integers(0, 5)):
            self.lending.lend(index, b"%d" % self.lending.sent)
        else:
            self.lending.cancel(index)

    @rule(data=st.data())
    @precondition(lambda self: any(each.consumer.held for each in self.recorders))
    def release(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from([r for r in self.recorders if r.consumer.held]))
        self.lending.release(each.consumer, data.draw(st.sampled_from(list(each.consumer.held))))

    @rule(data=st.data())
    @precondition(lambda self: self.recorders)
    def leave_or_get_stuck(self, data: st.DataObject) -> None:
        each = data.draw(st.sampled_from(self.recorders))
        if data.draw(st.booleans()):
            each.room = not each.room
        else:
            self.recorders.remove(each)
            self.lending.remove(each.consumer)

    @invariant()
    def every_buffer_is_at_one_place(self) -> None:
        lent = {
            lent
            for each in self.recorders
            for lent in (*each.consumer.held.values(), *each.consumer.waiting)
        }
        places = [*self.lending.free, *self.lending.taken, *(each.index for each in lent)]
        assert sorted(places) == [0, 1, 2, 3]
        for frame in lent:
            having = [
                each
                for each in self.recorders
                if frame.sequence in each.consumer.held or frame in each.consumer.waiting
            ]
            assert frame.borrowers == len(having)

    @invariant()
    def frames_come_in_order_and_are_counted(self) -> None:
        for each in self.recorders:
            assert each.got == sorted(set(each.got))
            assert len(each.got) == each.consumer.delivered
            assert len(each.consumer.held) <= each.consumer.hold
            if each.consumer.policy is Policy.WAIT:
                assert each.consumer.dropped == 0


AnyStream.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
test_any_stream = AnyStream.TestCase
