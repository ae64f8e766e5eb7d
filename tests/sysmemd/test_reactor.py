"""Users are served in turn while trio runs, and none of them ends the others."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from sysmemd import turns
from sysmemd.fair_queue import Queue
from sysmemd.pause import wait_for
from sysmemd.reactor import FRUITLESS_SECONDS, TrioReactor
from sysmemd.turns import Turns

from .recording import RecordingLog
from .turns import FakeConnection, Idle, Time, fail_next_turn


@pytest.fixture
def log() -> RecordingLog:
    return RecordingLog()


@pytest.fixture
async def reactor(log: RecordingLog) -> AsyncIterator[TrioReactor]:
    with contextlib.closing(Queue()) as queue:
        async with trio.open_nursery() as nursery:
            yield TrioReactor(nursery, queue, log)
            nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_user_is_waited_for_as_long_as_it_has_channels(reactor: TrioReactor) -> None:
    await wait_all_tasks_blocked()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        with FakeConnection() as first, FakeConnection(first.account) as second:
            reactor.serve(first.connection)
            reactor.serve(second.connection)
            await wait_all_tasks_blocked()
            for fake in (first, second):
                reactor.closing(fake.connection)
            assert reactor.closed_one.is_set()
        await wait_all_tasks_blocked()
        assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.trio
async def test_a_user_may_close_the_last_channel_in_its_turn(reactor: TrioReactor) -> None:
    with FakeConnection() as fake:
        fake.on_receive = lambda: reactor.closing(fake.connection)
        fake.send()
        reactor.serve(fake.connection)
        await wait_all_tasks_blocked()
        assert fake.received == 1


@pytest.mark.trio
async def test_users_are_served_in_turn(
    reactor: TrioReactor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many channels of one user are ready, each user gets one slice in turn."""
    for bound in ("SLICE_NS", "MAX_SLICE_NS"):
        monkeypatch.setattr(f"sysmemd.turns.{bound}", 0)  # a message is a slice
    monkeypatch.setattr(reactor, "_used", lambda: 0)  # whatever a message costs
    order: list[str] = []
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(FakeConnection(uid=1))
        many = [stack.enter_context(FakeConnection(uid=2))]
        many += [stack.enter_context(FakeConnection(many[0].account)) for _ in range(9)]
        for fake in (*many, one):
            fake.on_receive = partial(order.append, "one" if fake is one else "many")
            fake.send(3)
            reactor.serve(fake.connection)
        await wait_all_tasks_blocked()
        assert sorted(order[:2]) == sorted(order[2:4]) == sorted(order[4:6]) == ["many", "one"]
        assert order[6:] == ["many"] * 27
        for fake in (*many, one):
            reactor.closing(fake.connection)
    await wait_all_tasks_blocked()


@pytest.mark.trio
@pytest.mark.parametrize(("at_once", "waits"), [(True, False), (True, True), (False, False)])
async def test_who_comes_meanwhile_is_not_kept_waiting_by_all_who_are_busy(
    log: RecordingLog, *, at_once: bool, waits: bool
) -> None:
    """This holds whether their work is there at once or a message follows each answer, and if it uses no CPU time."""
    time = Time()
    order: list[str] = []
    with contextlib.ExitStack() as stack:
        queue = stack.enter_context(contextlib.closing(Queue()))
        newcomer, *busy = (stack.enter_context(FakeConnection(uid=uid)) for uid in range(5))
        newcomer.on_receive = partial(order.append, "newcomer")

        def work(one: FakeConnection) -> None:
            order.append("busy")
            if not at_once and len(order) < 38:
                one.send()
            time.now += turns.SLICE_NS
            if len(order) == 21:
                newcomer.send()

        async with trio.open_nursery() as nursery:
            used = (lambda: 0) if waits else time
            reactor = TrioReactor(nursery, queue, log, time, used)
            for one in (newcomer, *busy):
                reactor.serve(one.connection)
            for one in busy:
                one.on_receive = partial(work, one)
                for _ in range(10 if at_once else 0):
                    reactor.in_turn(one.account.user, one.on_receive)
                if not at_once:
                    one.send()
            await wait_all_tasks_blocked()
            for one in (newcomer, *busy):
                reactor.closing(one.connection)
            nursery.cancel_scope.cancel()
    assert order == ["busy"] * 21 + ["newcomer"] + ["busy"] * 19


@pytest.mark.trio
async def test_the_kernel_is_asked_for_the_cpu_time_once_when_users_alternate(
    log: RecordingLog,
) -> None:
    """It then lets the client run that was answered. While one user alone is served, nothing is asked."""
    asked: list[int] = []

    def used() -> int:
        asked.append(0)
        return 0

    with contextlib.ExitStack() as stack:
        queue = stack.enter_context(contextlib.closing(Queue()))
        one, other = (stack.enter_context(FakeConnection(uid=uid)) for uid in range(2))
        async with trio.open_nursery() as nursery:
            reactor = TrioReactor(nursery, queue, log, lambda: 0, used)
            for fake in (one, other):
                reactor.serve(fake.connection)
            counts = []
            for fake in (one, one, other, one):
                fake.send()
                await wait_all_tasks_blocked()
                counts.append(len(asked))
                asked.clear()
            for fake in (one, other):
                reactor.closing(fake.connection)
            nursery.cancel_scope.cancel()
    assert counts[1:] == [0, 1, 1]


@pytest.mark.trio
@pytest.mark.parametrize("is_served", [True, False])
async def test_a_user_who_can_not_be_waited_for_is_closed_once_it_is_served(
    reactor: TrioReactor, log: RecordingLog, monkeypatch: pytest.MonkeyPatch, is_served: bool
) -> None:
    """Other work for this user is done at once."""

    def no_turns(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr("sysmemd.reactor.Turns", no_turns)
    with FakeConnection() as fake:
        fake.is_served = is_served
        reactor.serve(fake.connection)
        await wait_all_tasks_blocked()
        assert bool(fake.refusals) == is_served
        fake.on_served()
        await wait_all_tasks_blocked()
        assert fake.refusals == ["the daemon can't wait for it: [Errno 24] Too many open files"]
        assert fake.closed
        reactor.closing(fake.connection)
        done: list[None] = []
        reactor.in_turn(fake.account.user, partial(done.append, None))
        assert done == [None]
        reactor.in_turn(fake.account.user, done.clear if is_served else lambda: done.pop(7))
        assert [fields["reason"] for fields in log.errors()] == (
            [] if is_served else ["IndexError('pop index out of range')"]
        )


@pytest.mark.trio
async def test_a_user_who_is_gone_after_a_failed_turn_is_waited_for_no_more(
    reactor: TrioReactor, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    with FakeConnection() as fake:
        reactor.serve(fake.connection)
        await wait_all_tasks_blocked()
        failures = fail_next_turn(monkeypatch)
        fake.send()
        await wait_all_tasks_blocked()
        assert not failures
        reactor.closing(fake.connection)
    monkeypatch.setattr(Queue, "enter_user", pytest.fail)
    await trio.sleep(1)
    assert reactor.connections() == []


@pytest.mark.trio
@pytest.mark.parametrize("error", [KeyError("oh"), OSError("oh"), MemoryError("oh")])
async def test_work_that_fails_is_logged_and_stops_nobody(
    reactor: TrioReactor, log: RecordingLog, error: Exception
) -> None:
    """Only an unforeseen error is logged with its traceback."""

    def fail() -> None:
        raise error

    with FakeConnection() as fake:
        reactor.in_turn(fake.account.user, fail)
        done = trio.Event()
        reactor.in_turn(fake.account.user, done.set)
        await done.wait()
    assert log.events("error") == ["an error occurred while a user was served"]
    [fields] = log.errors()
    assert fields["reason"] == repr(error)
    assert bool(fields["exc_info"]) == isinstance(error, KeyError)
    await wait_all_tasks_blocked()


@pytest.mark.trio
async def test_a_user_whose_reports_reveal_nothing_is_asked_with_pauses(
    reactor: TrioReactor, autojump_clock: MockClock
) -> None:
    """Otherwise the daemon would ask the kernel without end."""
    with FakeConnection() as fake:
        asked = 0

        def nothing() -> bool:
            nonlocal asked
            asked += 1
            return asked == 1000 and fake.near.recv(1) != b"x"

        fake.receive = nothing  # type: ignore[method-assign] # as if there were nothing
        fake.send()
        reactor.serve(fake.connection)
        await trio.sleep(10 * FRUITLESS_SECONDS)
        assert 70 <= asked <= 80
        del fake.receive
        await trio.sleep(2 * FRUITLESS_SECONDS)
        fake.send()
        await wait_all_tasks_blocked()
        assert fake.received == 2
        reactor.closing(fake.connection)


@pytest.mark.trio
async def test_a_user_whose_turn_fails_is_served_after_a_pause(
    reactor: TrioReactor,
    log: RecordingLog,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
) -> None:
    """This holds also if the kernel has no memory at the end of the pause."""
    failures = [MemoryError("oh"), OSError(errno.ENOMEM, "no memory")]
    take, enter_user = Turns.take, Queue.enter_user

    def fails_first(turns: Turns, *, measured: bool) -> bool:
        if len(failures) == 2:
            raise failures.pop(0)
        return take(turns, measured=measured)

    def fails_second(queue: Queue, fd: int) -> None:
        if len(failures) == 1:
            raise failures.pop(0)
        enter_user(queue, fd)

    with FakeConnection() as fake:
        reactor.serve(fake.connection)
        await wait_all_tasks_blocked()
        monkeypatch.setattr(Turns, "take", fails_first)
        monkeypatch.setattr(Queue, "enter_user", fails_second)
        received: list[float] = []
        fake.on_receive = lambda: received.append(trio.current_time())
        began = trio.current_time()
        fake.send()
        await trio.sleep(1)
        fake.send()
        await trio.sleep(1)
        reactor.closing(fake.connection)
    assert [time - began for time in received] == pytest.approx([0.2, 1])
    assert [fields["reason"] for fields in log.errors()] == ["MemoryError('oh')"]


@pytest.mark.trio
async def test_the_interrupted_work_of_all_users_is_unwound_in_the_end(
    reactor: TrioReactor,
) -> None:
    unwound: list[int] = []

    def work(uid: int) -> None:
        try:
            wait_for(Idle())
        finally:
            unwound.append(uid)

    for uid in (1, 2):
        with FakeConnection(uid=uid) as fake:
            reactor.in_turn(fake.account.user, partial(work, uid))
    await wait_all_tasks_blocked()
    assert unwound == []
    reactor.give_up()
    assert unwound == [1, 2]


@pytest.mark.trio
async def test_work_that_comes_after_the_end_opens_nothing(log: RecordingLog) -> None:
    """For example, a timer was due when the daemon stopped."""
    done: list[None] = []
    with FakeConnection() as fake, contextlib.closing(Queue()) as queue:
        async with trio.open_nursery() as nursery:
            reactor = TrioReactor(nursery, queue, log)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        before = os.listdir("/proc/self/fd")
        reactor.in_turn(fake.account.user, partial(done.append, None))
        assert os.listdir("/proc/self/fd") == before
    assert not done


@pytest.mark.trio
async def test_the_reactor_closes_what_it_serves(log: RecordingLog) -> None:
    """This also happens after its tasks were cancelled."""
    for cancelled in (False, True):
        with trio.CancelScope() as scope, contextlib.closing(Queue()) as queue:
            async with trio.open_nursery() as inner:
                reactor = TrioReactor(inner, queue, log)
                with FakeConnection() as fake:
                    reactor.serve(fake.connection)
                    await wait_all_tasks_blocked()
                    if cancelled:
                        scope.cancel()
                        with trio.CancelScope(shield=True):
                            await wait_all_tasks_blocked()
                    reactor.close()
                    assert fake.closed
                    reactor.closing(fake.connection)
                inner.cancel_scope.cancel()
