"""Delayed calls: they are made in order when they are due, and never after they were cancelled."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest
import trio
from trio.testing import MockClock

from sysmemd.clock import TrioClock

from .recording import RecordingLog

SECOND = 1_000_000_000


class Bench:
    """A clock that follows trio's mock clock, which jumps when all tasks wait."""

    def __init__(self) -> None:
        self.log = RecordingLog()
        self.clock = TrioClock(self.log, now=lambda: round(trio.current_time() * SECOND))
        self.called: list[tuple[str, float]] = []
        self._start = trio.current_time()

    def at(self, seconds: float, name: str) -> Callable[[], None]:
        deadline = round((self._start + seconds) * SECOND)
        return self.clock.call_at(deadline, lambda: self.note(name))

    def note(self, name: str) -> None:
        self.called.append((name, round(trio.current_time() - self._start, 3)))


@pytest.fixture
def bench(nursery: trio.Nursery) -> Bench:
    made = Bench()
    nursery.start_soon(made.clock.run)
    return made


@pytest.mark.trio
async def test_calls_are_made_when_they_are_due(bench: Bench, autojump_clock: MockClock) -> None:
    bench.at(2, "second")
    bench.at(1, "first")
    await trio.sleep(3)
    assert bench.called == [("first", 1), ("second", 2)]


@pytest.mark.trio
async def test_an_earlier_call_is_not_held_up_by_a_later_one(
    bench: Bench, autojump_clock: MockClock
) -> None:
    bench.at(100, "late")
    await trio.sleep(1)
    bench.at(2, "early")
    await trio.sleep(2)
    assert bench.called == [("early", 2)]


@pytest.mark.trio
async def test_calls_at_the_same_time_are_made_in_the_order_they_were_asked_for(
    bench: Bench, autojump_clock: MockClock
) -> None:
    for name in "abc":
        bench.at(1, name)
    await trio.sleep(2)
    assert [name for name, _ in bench.called] == ["a", "b", "c"]


@pytest.mark.trio
async def test_a_deadline_that_has_passed_is_due_at_once(
    bench: Bench, autojump_clock: MockClock
) -> None:
    bench.at(-1e9, "overdue")
    assert bench.called == []  # not from within the call
    await trio.sleep(0.001)
    assert bench.called == [("overdue", 0)]


@pytest.mark.trio
async def test_the_farthest_deadline_can_be_waited_for(
    bench: Bench, autojump_clock: MockClock
) -> None:
    bench.clock.call_at((1 << 63) - 1, lambda: bench.note("the end of time"))
    bench.at(90_000, "tomorrow")
    await trio.sleep(100_000)  # noqa: ASYNC116 - of the mocked clock
    assert bench.called == [("tomorrow", 90_000)]


@pytest.mark.trio
async def test_a_cancelled_call_is_not_made(bench: Bench, autojump_clock: MockClock) -> None:
    cancel = bench.at(1, "cancelled")
    bench.at(2, "not cancelled")
    cancel()
    cancel()
    await trio.sleep(3)
    assert bench.called == [("not cancelled", 2)]
    cancel()


@pytest.mark.trio
async def test_cancelling_a_call_that_was_made_is_harmless(
    bench: Bench, autojump_clock: MockClock
) -> None:
    cancels = [bench.at(1, "made") for _ in range(200)]
    await trio.sleep(2)
    for cancel in cancels:
        cancel()
    bench.at(3, "after")
    await trio.sleep(2)
    assert bench.called[-1] == ("after", 3)


@pytest.mark.trio
async def test_cancelled_calls_are_forgotten(bench: Bench, autojump_clock: MockClock) -> None:
    bench.at(500, "kept")
    for _ in range(10_000):
        bench.at(1000, "cancelled")()
    assert len(bench.clock._timers) < 200
    await trio.sleep(600)
    assert bench.called == [("kept", 500)]


@pytest.mark.trio
async def test_a_call_may_ask_for_others_and_cancel_them(
    bench: Bench, autojump_clock: MockClock
) -> None:
    cancels = [bench.at(2, "cancelled") for _ in range(100)]

    def cancel_all() -> None:
        bench.at(3, "asked for")
        for cancel in cancels:
            cancel()

    bench.clock.call_at(round((trio.current_time() + 1) * SECOND), cancel_all)
    await trio.sleep(4)
    assert bench.called == [("asked for", 3)]


@pytest.mark.trio
async def test_a_call_that_raises_is_logged_and_the_others_are_made(
    bench: Bench, autojump_clock: MockClock
) -> None:
    def fail() -> None:
        raise KeyError("oh")

    bench.clock.call_at(0, fail)
    bench.at(1, "next")
    await trio.sleep(2)
    assert bench.log.errors() == [{"exc_info": True}]
    assert bench.called == [("next", 1)]


def test_who_waits_in_its_place_learns_how_long_and_makes_some_calls_at_a_time() -> None:
    time = 0
    called: list[int] = []
    clock = TrioClock(RecordingLog(), now=lambda: time)
    assert (clock.seconds_left(), clock.call_due()) == (None, 0)
    clock.call_at(1 << 62, called.clear)
    assert clock.seconds_left() == 86_400
    for number in range(10):
        clock.call_at(2 * SECOND, partial(called.append, number))
    clock.call_at(2 * SECOND, called.clear)()
    assert (clock.seconds_left(), clock.call_due()) == (2, 0)
    time = 3 * SECOND
    assert [clock.seconds_left(), clock.call_due(), len(called)] == [0, 8, 8]
    assert [clock.seconds_left(), clock.call_due(), called] == [0, 2, list(range(10))]
    assert clock.seconds_left() == 86_400


def test_the_time_is_the_monotonic_clocks() -> None:
    clock = TrioClock(RecordingLog())
    before = time.monotonic_ns()
    assert before <= clock.now() <= time.monotonic_ns()
