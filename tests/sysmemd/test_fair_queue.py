"""The order in which users have turns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial

import pytest

from sysmemd.fair_queue import CREDIT_NS, DEBT_NS, Queue
from sysmemd.turns import SLICE_NS, Turns

from .turns import FakeConnection, Time


@pytest.fixture
def made(time: Time, queue: Queue) -> Iterator[Turns]:
    with closing(Turns(queue, time, time)) as made:
        yield made


def test_who_has_more_to_do_waits(made: Turns, time: Time, queue: Queue) -> None:
    assert not queue.others_wait(-1, 0)
    made.in_turn(time.work)
    made.take()
    assert queue.others_wait(-1, DEBT_NS)
    assert not queue.others_wait(made.fileno(), 0)
    while made.take():
        pass
    assert not queue.others_wait(-1, DEBT_NS)


def test_what_is_not_a_users_always_comes_first(queue: Queue) -> None:
    with FakeConnection() as fake:
        queue.enter(fake.near.fileno())
        assert not queue.others_wait(-1, 0)
        fake.send()
        assert queue.others_wait(-1, 0)
        queue.leave(fake.near.fileno())


def test_who_has_more_to_do_comes_after_who_has_waited(
    made: Turns, time: Time, queue: Queue
) -> None:
    with closing(Turns(queue, time)) as others, FakeConnection() as other, FakeConnection() as fake:
        made.serve(fake.connection)
        others.serve(other.connection)
        made.in_turn(time.work)
        made.take(measured=False)
        fake.send()
        other.send()
        assert queue.wait(0) == [others.fileno(), made.fileno()]
        others.closing(other.connection)
        made.closing(fake.connection)


def test_who_has_used_as_much_is_served_in_the_order_of_coming(made: Turns, queue: Queue) -> None:
    made.in_turn(lambda: None)
    with ExitStack() as stack:
        others = [stack.enter_context(closing(Turns(queue))) for _ in range(8)]
        fakes = [stack.enter_context(FakeConnection()) for _ in others]
        for other, fake in zip(others, fakes, strict=True):
            other.serve(fake.connection)
            stack.callback(other.closing, fake.connection)
        for fake in reversed(fakes):
            fake.send()
        assert queue.wait(0) == [*(other.fd for other in reversed(others)), made.fd]


class Rivals:
    """Two users with work. Each piece of work takes a slice."""

    def __init__(self, queue: Queue, time: Time) -> None:
        self._time = time
        self._done: list[str] = []
        self.by_name = {name: Turns(queue, time, time) for name in ("busy", "idle")}
        self._queue = queue

    def close(self) -> None:
        for made in self.by_name.values():
            made.close()

    def work(self, name: str, slices: int) -> None:
        """Return a user with work for this many slices."""
        for _ in range(slices):
            self.by_name[name].in_turn(partial(self._work, name))

    def _work(self, name: str) -> None:
        self._done.append(name)
        self._time.now += SLICE_NS

    def serve(self) -> list[str]:
        """Serve both until all is done. Return the owner of each piece of work."""
        self._done = []
        while due := self._queue.wait(0):
            [first] = [made for made in self.by_name.values() if made.fd == due[0]]
            first.take()
        return self._done


@pytest.fixture
def rivals(queue: Queue, time: Time) -> Iterator[Rivals]:
    with closing(Rivals(queue, time)) as rivals:
        yield rivals


def test_users_with_endless_work_are_served_in_turn(rivals: Rivals) -> None:
    rivals.work("busy", 20)
    rivals.work("idle", 20)
    done = rivals.serve()
    assert all(done[place : place + 3].count("busy") in (1, 2) for place in range(37))


def test_a_user_who_has_used_little_is_served_first_but_not_for_ever(rivals: Rivals) -> None:
    """This holds however long it was idle."""
    for slices in (20, 200):
        rivals.work("busy", slices)
        assert rivals.serve() == ["busy"] * slices
    rivals.work("busy", 40)
    rivals.work("idle", 40)
    done = rivals.serve()
    ahead = done.index("busy")
    assert CREDIT_NS <= ahead * SLICE_NS <= CREDIT_NS + DEBT_NS
    after = done[ahead : ahead + 20]
    assert after.count("busy") == after.count("idle") == 10


def test_who_has_used_much_at_once_is_behind_but_not_for_ever(rivals: Rivals, queue: Queue) -> None:
    queue.charge(rivals.by_name["busy"].fd, DEBT_NS * 100)
    rivals.work("busy", 20)
    rivals.work("idle", 20)
    assert rivals.serve().index("busy") == DEBT_NS // SLICE_NS
