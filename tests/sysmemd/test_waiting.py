"""A daemon that has the loop to itself serves instead of trio's wait, and trio continues normally."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any
from unittest.mock import Mock, call

import pytest
import trio
import trio.lowlevel
from trio._core._wakeup_socketpair import WakeupSocketpair
from trio.testing import wait_all_tasks_blocked

from sysmemd import turns
from sysmemd.clock import TrioClock
from sysmemd.fair_queue import DEBT_NS, Queue
from sysmemd.reactor import TrioReactor
from sysmemd.turns import Turns
from sysmemd.waiting import _InPlaceOfWaiting

from .recording import RecordingLog
from .turns import FakeConnection, Time, fail_next_turn

PATIENCE = 10.0


@contextlib.asynccontextmanager
async def reactor(
    log: RecordingLog, *clocks: Callable[[], int]
) -> AsyncIterator[tuple[TrioReactor, Queue]]:
    with contextlib.closing(Queue()) as queue, trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            yield TrioReactor(nursery, queue, log, *clocks, alone=TrioClock(log)), queue
            nursery.cancel_scope.cancel()


def alone(test: Callable[[TrioReactor, RecordingLog], Awaitable[None]]) -> Callable[[], None]:
    """Run a test in a loop with real time."""

    async def run() -> None:
        log = RecordingLog()
        async with reactor(log) as (made, _):
            await trio.lowlevel.checkpoint()
            await test(made, log)

    def test_in_loop() -> None:
        trio.run(run)

    test_in_loop.__name__ = test.__name__
    return test_in_loop


@alone
async def test_a_message_is_served_and_whom_it_lets_go_on_goes_on(
    made: TrioReactor, log: RecordingLog
) -> None:
    with FakeConnection() as fake:
        for _ in range(3):
            came = trio.Event()
            fake.on_receive = came.set
            if not made.connections():
                made.serve(fake.connection)
            fake.send()
            await came.wait()
        made.closing(fake.connection)


@alone
async def test_a_message_is_served_while_trio_has_nothing_to_do(
    made: TrioReactor, log: RecordingLog
) -> None:
    """No task is ready: the response wakes the one that waits for it."""
    with FakeConnection() as fake:
        fake.on_receive = partial(fake.near.send, b"y")
        made.serve(fake.connection)
        fake.send()
        await trio.lowlevel.wait_readable(fake.far)
        made.closing(fake.connection)


@alone
async def test_timers_and_tasks_go_on_however_busy_a_user_is(
    made: TrioReactor, log: RecordingLog
) -> None:
    with FakeConnection() as fake:
        made.serve(fake.connection)
        again = True

        def work() -> None:
            if again:
                made.in_turn(fake.account.user, work)

        work()
        await trio.sleep(0.01)
        reading, writing = os.pipe()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.lowlevel.wait_readable, reading)
            await trio.sleep(0.01)
            os.write(writing, b"x")
        os.close(reading)
        os.close(writing)
        again = False
        made.closing(fake.connection)


def test_the_loop_has_turns_as_users_have() -> None:
    """Its work is charged, so that tasks that always have work don't delay users for more than their share."""
    time = Time()
    order: list[str] = []

    def works(name: str) -> None:
        order.append(name)
        time.now += turns.SLICE_NS

    async def run() -> None:
        log = RecordingLog()
        async with reactor(log, time, time) as (made, queue):
            await wait_all_tasks_blocked()
            with FakeConnection(uid=1) as fake, FakeConnection(uid=2) as idle:
                for one in (fake, idle):
                    made.serve(one.connection)
                queue.charge(queue.loop, DEBT_NS)
                for _ in range(40):
                    made.in_turn(fake.account.user, partial(works, "user"))
                while len(order) < 40:
                    await trio.lowlevel.wait_writable(fake.far)
                    works("loop")
                for one in (fake, idle):
                    made.closing(one.connection)

    trio.run(run)
    ahead = order.index("loop")
    assert ahead == DEBT_NS // turns.SLICE_NS
    assert order[ahead : ahead + 20].count("user") == 10


def test_a_user_is_waited_for_directly_while_there_is_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    watch_loop = Turns.watch_loop

    def note(turns: Turns, *, watched: bool) -> None:
        watch_loop(turns, watched=watched)
        changes.append(watched)
        changed.set()

    changes: list[bool] = []
    changed = trio.Event()
    monkeypatch.setattr(Turns, "watch_loop", note)

    @alone
    async def serve(made: TrioReactor, log: RecordingLog) -> None:
        nonlocal changed
        with FakeConnection(uid=1) as one:
            made.serve(one.connection)
            await changed.wait()
            for uid in (2, 3):
                with FakeConnection(uid=uid) as other:
                    made.serve(other.connection)
                    changed = trio.Event()
                    made.closing(other.connection)
                    await changed.wait()
            made.closing(one.connection)

    serve()
    assert changes[:5] == [True, False, True, False, True]


@pytest.mark.parametrize(
    ("served", "is_ready", "has_task", "is_woken"),
    [
        (0, True, False, False),
        (1, True, False, True),
        (1, False, True, True),
        (0, False, False, True),
    ],
)
def test_trio_is_woken_unless_it_finds_by_itself_what_is_ready(
    served: int, is_ready: bool, has_task: bool, is_woken: bool
) -> None:
    runner = Mock(runq=[1] if has_task else [])
    serve = Mock(return_value=(served, is_ready))
    instrument = _InPlaceOfWaiting(runner, serve, lambda error: pytest.fail(str(error)))
    instrument.before_io_wait(1e-3)
    assert runner.io_manager.force_wakeup.called is is_woken
    runner.io_manager.force_wakeup.reset_mock()
    instrument.before_io_wait(0)
    assert serve.mock_calls[-1] == call(0)
    assert not runner.io_manager.force_wakeup.called


def test_while_trio_can_not_be_woken_users_are_served_until_it_would_not_wait() -> None:
    runner = Mock(runq=[1])
    runner.io_manager.force_wakeup.side_effect = OSError("no buffers")
    failures: list[Exception] = []
    outcomes = [(0, False), (0, False), (1, True), OSError("no memory"), (0, True)]
    serve = Mock(side_effect=outcomes)
    _InPlaceOfWaiting(runner, serve, failures.append).before_io_wait(10)
    assert len(serve.mock_calls) == len(outcomes)
    assert list(map(str, failures)) == ["no memory"]


def test_who_is_served_and_what_is_called_is_counted() -> None:
    async def run() -> None:
        async with reactor(RecordingLog(), lambda: 0, lambda: 0) as (made, _):
            await wait_all_tasks_blocked()
            assert made._clock is not None
            with FakeConnection(uid=1) as one, FakeConnection(uid=2) as other:
                for fake in (one, other):
                    made.serve(fake.connection)
                    fake.send()
                made._clock.call_at(0, lambda: None)
                served = [made._serve(0)[0] for _ in range(2)]
                made.closing(other.connection)
                served += [made._serve(0)[0] for _ in range(2)]
                one.send()
                served += [made._serve(0)[0] for _ in range(2)]
                made.closing(one.connection)
            assert served == [3, 0, 1, 0, 1, 0]

    trio.run(run)


def test_the_only_user_is_not_waited_for_directly_while_it_rests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fail_next_turn(monkeypatch)

    @alone
    async def serve(made: TrioReactor, log: RecordingLog) -> None:
        soles: list[bool] = []
        with FakeConnection() as fake:
            came = trio.Event()
            fake.on_receive = came.set
            monkeypatch.setattr(made, "_say_failed", lambda _: soles.append(made._sole is None))
            end_rest = made._end_rest

            async def note(*arguments: Any) -> None:
                soles.append(made._sole is None)
                await end_rest(*arguments)
                soles.append(made._sole is None)

            monkeypatch.setattr(made, "_end_rest", note)
            made.serve(fake.connection)
            fake.send()
            await came.wait()
            made.closing(fake.connection)
        assert soles[-2:] == [True, False]

    serve()


@alone
async def test_a_wake_up_from_another_thread_is_noticed(
    made: TrioReactor, log: RecordingLog
) -> None:
    await trio.to_thread.run_sync(lambda: None)


def test_what_goes_wrong_while_serving_is_said_and_serving_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    wait = Queue.wait
    failures = [OSError("no memory")]

    def fails_once(queue: Queue, seconds: float) -> Any:
        if failures:
            raise failures.pop()
        return wait(queue, seconds)

    monkeypatch.setattr(Queue, "wait", fails_once)

    @alone
    async def serve(made: TrioReactor, log: RecordingLog) -> None:
        with FakeConnection() as fake:
            fake.on_receive = partial(fake.near.send, b"y")
            made.serve(fake.connection)
            fake.send()
            await trio.lowlevel.wait_readable(fake.far)
            made.closing(fake.connection)

    serve()
    assert not failures


def test_a_kernel_that_has_no_memory_to_wake_trio_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Neither users nor tasks wait for longer than the shortage."""
    wake = WakeupSocketpair.wakeup_thread_and_signal_safe
    failures = [OSError("no buffers")] * 3

    def fails(pair: WakeupSocketpair) -> None:
        if failures:
            raise failures.pop()
        wake(pair)

    monkeypatch.setattr(WakeupSocketpair, "wakeup_thread_and_signal_safe", fails)

    @alone
    async def serve(made: TrioReactor, log: RecordingLog) -> None:
        with FakeConnection() as fake:
            came = trio.Event()
            fake.on_receive = came.set
            made.serve(fake.connection)
            fake.send()
            await came.wait()
            await trio.sleep(0.01)
            made.closing(fake.connection)

    serve()
    assert not failures
