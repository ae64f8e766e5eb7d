"""The turns of one user: its waits, the order in which its channels are served, and the length of turns."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NoReturn
from unittest.mock import Mock

import pytest

from sysmem_protocol.handles import Handle
from sysmemd import turns
from sysmemd.fair_queue import Queue
from sysmemd.pause import give_way, wait_for, wait_while
from sysmemd.runner import Runner
from sysmemd.turns import RECEIVE_BUDGET, Turns

from .turns import FakeConnection, Idle, Time


@pytest.fixture
def made(time: Time, queue: Queue) -> Iterator[Turns]:
    with contextlib.closing(Turns(queue, time, time)) as made:
        yield made


@pytest.fixture
def new() -> Iterator[Callable[[], FakeConnection]]:
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(FakeConnection())


@pytest.fixture
def fake(new: Callable[[], FakeConnection], made: Turns) -> FakeConnection:
    """Return a connection that is served."""
    fake = new()
    made.serve(fake.connection)
    return fake


def is_due(turns: Turns) -> bool:
    """Return whether a task that waits for these turns would continue."""
    return turns.fileno() in turns.queue.wait(0)


def test_a_channel_is_served_when_it_is_readable(made: Turns, fake: FakeConnection) -> None:
    assert not made.take()
    assert not is_due(made)
    fake.send()
    assert is_due(made)
    assert not made.take()
    assert fake.received == 1
    assert not is_due(made)


def test_channels_are_served_in_turn(
    made: Turns, new: Callable[[], FakeConnection], time: Time
) -> None:
    """A channel that always sends is served after all others, even if each slice serves only one channel."""
    fakes = [new() for _ in range(100)]
    for fake in fakes:
        fake.on_receive = time.slice_passes
        fake.send(2)
        made.serve(fake.connection)
    for turn in range(100):
        made.take()
        assert sum(fake.received for fake in fakes) == turn + 1
    assert {fake.received for fake in fakes} == {1}


def test_a_channel_that_has_more_is_served_a_budget_at_a_time(
    made: Turns, new: Callable[[], FakeConnection]
) -> None:
    busy, other = new(), new()
    busy.more = True
    received: list[int] = []
    other.on_receive = lambda: received.append(busy.received)
    for fake in (busy, other):
        fake.send(RECEIVE_BUDGET + 1)
        made.serve(fake.connection)
    made.take()
    assert received == [RECEIVE_BUDGET]
    made.take()
    assert busy.received == RECEIVE_BUDGET + 1


def test_a_slice_ends_also_between_the_messages_of_a_channel(
    made: Turns, fake: FakeConnection, time: Time
) -> None:
    fake.more = True
    fake.send(3)
    fake.on_receive = time.slice_passes
    for received in (1, 2, 3):
        assert is_due(made)
        made.take()
        assert fake.received == received


def test_answers_are_sent_when_there_is_room(made: Turns, fake: FakeConnection) -> None:
    made.take()
    fake.fill()
    made.flush(fake.connection)
    assert is_due(made)
    made.take()
    assert fake.flushed == 1
    made.flush(fake.connection)  # the kernel watches it already
    assert not is_due(made)
    fake.send()
    made.take()  # and it is read meanwhile
    assert (fake.flushed, fake.received) == (1, 1)
    fake.drain()
    made.take()
    assert fake.flushed == 2
    assert not is_due(made)  # although there is room


def test_a_slice_ends_also_between_answers(
    made: Turns, new: Callable[[], FakeConnection], time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = [new(), new()]
    for fake in fakes:
        made.serve(fake.connection)
        made.flush(fake.connection)

        def flush(fake: FakeConnection = fake) -> bool:
            time.slice_passes()
            fake.flushed += 1
            return True

        monkeypatch.setattr(fake, "flush", flush)
    assert made.take()
    assert [fake.flushed for fake in fakes] == [1, 0]
    assert not made.take()
    assert [fake.flushed for fake in fakes] == [1, 1]


def test_a_slice_is_short_only_if_somebody_else_waits(
    made: Turns, fake: FakeConnection, time: Time, queue: Queue
) -> None:
    def a_while_passes() -> None:
        time.now += turns.SLICE_NS

    fake.more = True
    fake.on_receive = a_while_passes
    fake.send(2)
    made.take()
    assert fake.received == 2
    with contextlib.closing(Turns(queue, time)) as others, FakeConnection() as other:
        others.serve(other.connection)
        other.send()
        fake.send(2)
        made.take()
        assert fake.received == 3
        others.take()
        made.take()  # now only this one waits
        assert fake.received == 4
        others.closing(other.connection)


def test_the_loop_is_reported_among_the_channels_while_it_is_watched(
    made: Turns, queue: Queue
) -> None:
    with FakeConnection() as loop:
        queue.enter_loop(loop.near.fileno())
        loop.send()
        for watched in (True, False):
            made.watch_loop(watched=watched)
            assert made.wait(0) is watched
            made.take()
        assert made.loop_is_ready


def test_the_cpu_time_of_a_short_turn_is_only_asked_for_if_others_wait(
    queue: Queue, time: Time, new: Callable[[], FakeConnection]
) -> None:
    asked: list[None] = []

    def used() -> int:
        asked.append(None)
        return time.now

    with contextlib.closing(Turns(queue, time, used)) as made:
        fake = new()
        fake.on_receive = lambda: setattr(time, "now", time.now + turns.SLICE_NS - 1)
        made.serve(fake.connection)
        fake.send()
        made.take(measured=False)
        assert not asked
        fake.send(2)
        fake.more = True
        made.take(measured=False)  # two messages take longer than a slice
        assert len(asked) == 1
        charged = queue.charged
        for _ in range(2):
            made.in_turn(time.slice_passes)
        assert made.take(measured=False)  # one alone takes longer than a turn
        assert queue.charged == charged
        made.take(measured=False)
        made.closing(fake.connection)


def test_a_held_channel_is_left_alone_until_its_holder_is_idle(
    made: Turns, fake: FakeConnection
) -> None:
    made.take()
    holder = Idle()
    made.hold(fake.connection, holder)
    fake.send()
    fake.far.close()  # a hang-up is always reported
    assert not is_due(made)
    holder.rest()
    assert is_due(made)
    made.take()
    assert fake.received == 1


def test_a_held_channel_may_close(made: Turns, fake: FakeConnection) -> None:
    holder = Idle()
    made.hold(fake.connection, holder)
    made.closing(fake.connection)
    fake.close()
    holder.rest()
    assert not made


def test_what_is_sent_on_a_held_channel_is_sent(made: Turns, fake: FakeConnection) -> None:
    made.take()
    made.hold(fake.connection, Idle())
    fake.fill()
    made.flush(fake.connection)
    made.take()
    fake.drain()
    assert is_due(made)
    made.take()
    assert fake.flushed == 2
    fake.send()
    assert not is_due(made)


def test_a_channel_that_is_read_no_more_is_waited_for_only_while_answers_wait(
    made: Turns, fake: FakeConnection
) -> None:
    fake.fill()
    made.flush(fake.connection)
    made.take()
    fake.reading = False
    fake.send()
    made.take()  # notices that
    assert not is_due(made)
    fake.drain()
    made.take()
    assert (fake.flushed, fake.received) == (2, 0)
    fake.far.close()
    assert not is_due(made)


@pytest.mark.parametrize("full", [False, True])
def test_a_closed_channel_is_forgotten_also_where_a_copy_of_it_is_left(
    made: Turns, fake: FakeConnection, full: bool
) -> None:
    if full:
        fake.fill()
        made.flush(fake.connection)
        made.take()
        fake.drain()
    assert made.connections() == [fake.connection]
    with Handle(os.dup(fake.fileno())):
        made.take()
        made.closing(fake.connection)
        assert not made
        assert is_due(made)  # so that a task that waits for it ends
        made.take()
        fake.send()
        assert not is_due(made)


def test_what_was_ready_may_close_before_it_is_served(
    made: Turns, new: Callable[[], FakeConnection]
) -> None:
    fakes = [new(), new()]

    def close_others(served: FakeConnection) -> None:
        for fake in fakes:
            if fake is not served:
                made.closing(fake.connection)

    for fake in fakes:
        fake.on_receive = lambda fake=fake: close_others(fake)  # type: ignore[misc] # bound now
        fake.send()
        made.serve(fake.connection)
    made.take()
    assert sum(fake.received for fake in fakes) == 1


def test_what_was_reported_of_a_channel_says_nothing_of_the_next_one_with_its_number(
    made: Turns, new: Callable[[], FakeConnection]
) -> None:
    """A channel whose client has hung up closes before its turn, and a new channel gets its descriptor."""
    first, gone, later = new(), new(), new()
    told: list[None] = []
    later.note_hang_up = lambda: told.append(None)  # type: ignore[method-assign]

    def replace() -> None:
        number = gone.fileno()
        made.closing(gone.connection)
        gone.close()
        gone.near.detach()
        os.dup2(later.near.fileno(), number)
        later.near.close()
        later.near = socket.socket(fileno=number)
        made.serve(later.connection)

    first.on_receive = replace
    for fake in (first, gone):
        fake.send()
        made.serve(fake.connection)
    gone.far.close()
    made.take()
    assert first.received == 1
    later.send()
    made.take()
    assert later.received == 1
    assert told == []


def work_in_steps(steps: list[int], time: Time, nanoseconds: int) -> None:
    """Record four steps of this length, and give way after each."""
    for step in range(4):
        steps.append(step)
        time.now += nanoseconds
        give_way()


def test_long_work_is_interrupted_and_others_are_served_meanwhile(
    made: Turns, new: Callable[[], FakeConnection], time: Time
) -> None:
    busy, other = new(), new()
    steps: list[int] = []
    busy.on_receive = partial(work_in_steps, steps, time, turns.MAX_SLICE_NS)
    for fake in (busy, other):
        made.serve(fake.connection)
    busy.send()
    assert made.take()
    assert steps == [0]
    other.send(2)
    seen = []
    while len(steps) < 4:
        assert made.take()
        seen.append((len(steps), other.received))
    assert seen == [(2, 0), (3, 1), (4, 1)]
    while made.take():
        pass
    assert other.received == 2
    busy.send()
    made.take()
    assert len(steps) == 5  # it is served again


@pytest.mark.parametrize("apart", [True, False])
def test_only_work_apart_from_messages_lets_the_users_other_channels_go_on_early(
    made: Turns, new: Callable[[], FakeConnection], time: Time, apart: bool
) -> None:
    busy, other = new(), new()
    steps: list[int] = []
    busy.on_receive = work = partial(work_in_steps, steps, time, turns.SLICE_NS)
    for fake in (busy, other):
        made.serve(fake.connection)
    made.take()
    if apart:
        made.in_turn(work, apart=True)
    else:
        busy.send()
    other.send()
    assert made.take() is apart
    assert (len(steps), other.received) == ((1, 0) if apart else (4, 1))
    assert not made.take()
    assert (len(steps), other.received) == (4, 1)


def test_several_may_be_interrupted(
    made: Turns, new: Callable[[], FakeConnection], time: Time
) -> None:
    fakes = [new() for _ in range(5)]
    done: list[FakeConnection] = []

    def work(fake: FakeConnection) -> None:
        time.work(4)
        done.append(fake)

    for fake in fakes:
        fake.on_receive = lambda fake=fake: work(fake)  # type: ignore[misc] # bound now
        made.serve(fake.connection)
        fake.send()
    turns = 0
    while made.take() or is_due(made):
        turns += 1
    assert set(done) == set(fakes)
    assert turns <= 30


def test_work_may_wait_for_somebody_without_being_called(made: Turns, fake: FakeConnection) -> None:
    holder = Idle()
    done: list[str] = []

    def work() -> None:
        wait_for(holder)
        done.append("work")

    made.in_turn(work)
    while made.take():
        pass
    assert not is_due(made)
    fake.send()
    made.take()
    assert (done, fake.received) == ([], 1)
    holder.rest()
    assert is_due(made)
    while made.take():
        pass
    assert done == ["work"]
    made.in_turn(work)  # there is nothing to wait for now
    made.take()
    assert done == ["work", "work"]


def test_work_may_wait_for_one_after_the_other(made: Turns) -> None:
    holders = [Idle(), Idle()]
    left = iter(holders)
    made.in_turn(lambda: wait_while(lambda: next(left, None)))
    for holder in holders:
        while made.take():
            pass
        assert made
        assert holder.callbacks
        holder.rest()
    while made.take():
        pass
    assert not made


def test_there_is_something_to_do_as_long_as_work_is_interrupted(made: Turns, time: Time) -> None:
    assert not made
    made.in_turn(time.work)
    assert made
    made.take()
    assert made
    while made.take():
        pass
    assert not made


def test_what_was_interrupted_is_unwound_in_the_end(made: Turns, time: Time) -> None:
    unwound: list[str] = []

    def work(how: str) -> None:
        try:
            time.slice_passes()
            if how == "waits":
                wait_for(Idle())
            give_way()
        finally:
            unwound.append(how)

    for how in ("waits", "paused"):
        made.in_turn(partial(work, how))
        made.take()
    made.give_up()
    assert sorted(unwound) == ["paused", "waits"]
    assert not made


def test_what_work_raises_is_raised(made: Turns) -> None:
    made.in_turn(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        made.take()
    done: list[None] = []
    made.in_turn(partial(done.append, None))
    made.take()
    assert done == [None]


def test_outside_of_a_slice_nobody_gives_way() -> None:
    give_way()
    with pytest.raises(AssertionError, match="is not idle"):
        wait_for(Idle())


def test_a_channel_that_can_not_be_waited_for_is_not_served(made: Turns, tmp_path: str) -> None:
    with FakeConnection() as fake, Handle(os.open(tmp_path, os.O_RDONLY)) as directory:
        fake.fileno = directory.fileno  # type: ignore[method-assign] # which epoll refuses
        with pytest.raises(PermissionError):
            made.serve(fake.connection)
        assert made.connections() == []
        made.closing(fake.connection)


def test_a_channel_that_can_not_be_waited_for_any_more_closes(made: Turns, tmp_path: str) -> None:
    with FakeConnection() as fake, Handle(os.open(tmp_path, os.O_RDONLY)) as directory:
        made.serve(fake.connection)
        os.dup2(directory.fileno(), fake.fileno())  # which epoll refuses
        idle = Idle()
        made.hold(fake.connection, idle)
        assert fake.closed
        [reason] = fake.refusals
        assert "the daemon can't wait for it" in reason
        made.closing(fake.connection)


def test_without_descriptors_nothing_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_epoll(*_: object) -> NoReturn:
        raise OSError(errno.EMFILE, "Too many open files")

    queue = Queue()
    before = os.listdir("/proc/self/fd")
    opened = [select.epoll()]
    monkeypatch.setattr(select, "epoll", Mock(side_effect=[opened[0], OSError("Too many")]))
    with pytest.raises(OSError, match="Too many"):
        Queue()
    assert opened[0].closed
    monkeypatch.setattr(select, "epoll", no_epoll)
    with contextlib.closing(queue), pytest.raises(OSError, match="Too many"):
        Turns(queue)
    assert len(os.listdir("/proc/self/fd")) == len(before) - 2


def test_closing_is_idempotent_and_leaves_the_channels(made: Turns, fake: FakeConnection) -> None:
    made.take()
    made.close()
    made.close()
    assert made.connections() == [fake.connection]
    made.closing(fake.connection)
    assert not made


# --- a kernel that is short of memory ---------------------------------------------------------------------------------


class Short:
    """An epoll instance that can't be changed while `short` is true."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self.short = False

    def __getattr__(self, name: str) -> Any:
        if self.short and name in ("register", "modify", "unregister"):
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return getattr(self._epoll, name)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> Short:
    made = Short()
    monkeypatch.setattr("sysmemd.turns.select.epoll", lambda: made)
    return made


def test_a_channel_closes_though_it_can_not_be_forgotten(
    queue: Queue, short: Short, new: Callable[[], FakeConnection]
) -> None:
    with contextlib.closing(Turns(queue)) as made:
        fake = new()
        made.serve(fake.connection)
        short.short = True
        made.closing(fake.connection)
        assert made.connections() == []
    assert short.closed


def test_a_user_who_can_not_be_waited_for_leaves_nothing_open(short: Short) -> None:
    refuse = Mock(side_effect=OSError(errno.ENOMEM, "Cannot allocate memory"))
    with pytest.raises(OSError, match="memory"):
        Turns(Mock(enter_user=refuse))
    assert short.closed


def test_reports_of_what_is_not_there_are_counted(made: Turns, fake: FakeConnection) -> None:
    """Otherwise the daemon would ask the kernel without end."""
    fake.receive = lambda: False  # type: ignore[method-assign] # as if there were nothing
    fake.send()
    for _ in range(100):
        made.take()
    assert made.is_fruitless
    del fake.receive
    made.take()
    assert not made.is_fruitless


def test_a_channel_with_room_for_a_part_of_what_waits_is_no_such_report(
    made: Turns, fake: FakeConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sends_a_part() -> bool:
        fake.waiting_bytes -= 1
        return False

    monkeypatch.setattr(fake, "flush", sends_a_part)
    made.flush(fake.connection)
    for _ in range(100):
        made.take()
    assert fake.waiting_bytes == -100
    assert not made.is_fruitless


def test_what_goes_wrong_with_a_channel_ends_that_channel_alone(
    queue: Queue, time: Time, new: Callable[[], FakeConnection]
) -> None:
    def oh() -> None:
        raise KeyError("oh")

    failures: list[Exception] = []
    with contextlib.closing(Turns(queue, time, failed=failures.append)) as made:
        broken, other = new(), new()
        for one in (broken, other):
            made.serve(one.connection)
            one.send()
        broken.on_receive = oh
        made.in_turn(oh)
        made.take()
        assert (broken.closed, other.received) == (True, 1)
    assert [repr(error) for error in failures] == ["KeyError('oh')"] * 2


def test_work_for_which_there_is_no_stack_goes_on_later(
    made: Turns,
    new: Callable[[], FakeConnection],
    monkeypatch: pytest.MonkeyPatch,
    time: Time,
) -> None:
    """This holds whether it has begun or not."""
    fake = new()

    def no_memory(_: Runner) -> None:
        raise MemoryError

    def work() -> None:
        time.work()
        done.append(None)

    done: list[None] = []
    fake.on_receive = work
    fake.send()
    for received in (0, 1, 1):
        with monkeypatch.context() as patch:
            patch.setattr(Runner, "go_on", no_memory)
            with pytest.raises(MemoryError):
                made.take()
        assert fake.received == received
        if not received:
            assert not made
            made.serve(fake.connection)
            made.take()
    made.closing(fake.connection)
    assert made
    for _ in range(2):  # its turn comes every other time
        made.take()
    assert done == [None]
    assert not made
