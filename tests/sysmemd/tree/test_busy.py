"""Long allocation attempts: their collection waits for them, and other collections do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.sysmemd.slow import SlowWork

from sysmem_protocol.sysmem2 import Error
from sysmemd.ports import NoMemoryError
from sysmemd.tree import Allocated, Node

from .world import IMPOSSIBLE, World, wanting


@pytest.fixture
def world(work: SlowWork) -> World:
    world = World()
    world.do = work.do
    return world


def has_buffers(*nodes: Node) -> list[bool]:
    return [isinstance(node.outcome, Allocated) for node in nodes]


def names(world: World) -> list[str]:
    """Return the participants of the last aggregation."""
    return [participant.name for participant in world.engine.calls[-1]]


def is_busy(world: World) -> bool:
    return world.collection.busy


def ask_for_buffers(world: World, work: SlowWork) -> None:
    """Continue until memory creates the buffers of an attempt, which takes time."""
    world.memory.takes_time = True
    world.ready(world.root)
    work.finish()


def in_tree(node: Node) -> bool:
    return node.in_tree


def broken(*_: object) -> Any:
    raise ZeroDivisionError("oh")


# --- one attempt ---


def test_until_an_attempt_is_over_nothing_has_happened(world: World, work: SlowWork) -> None:
    child = world.token(world.root)
    world.ready(world.root, child)
    assert is_busy(world)
    work.go_on()
    assert has_buffers(world.root, child) == [False, False]
    assert world.memory.requests == []
    assert world.channels[child].answers == 0
    work.go_on()
    assert not is_busy(world)
    assert has_buffers(world.root, child) == [True, True]
    assert world.channels[child].answers == 1


def test_who_waits_for_the_end_is_told_once(world: World, work: SlowWork) -> None:
    told: list[str] = []
    world.collection.when_idle(lambda: told.append("at once"))
    assert told == ["at once"]
    world.ready(world.root)
    world.collection.when_idle(lambda: told.append("later"))
    assert told == ["at once"]
    work.finish()
    assert told == ["at once", "later"]


def test_an_attempt_that_is_over_at_once_is_as_good() -> None:
    world = World()
    world.ready(world.root)
    assert has_buffers(world.root) == [True]
    assert not is_busy(world)


# --- several ---


def test_one_pass_makes_several_attempts_one_after_another(world: World, work: SlowWork) -> None:
    world.bind(world.root)
    first, second = world.attach(world.root), world.attach(world.root)
    world.ready(first, second, constraints=wanting(1))
    world.ready(world.root, constraints=wanting(1, least=2))
    told: list[bool] = []
    world.collection.when_idle(lambda: told.append(world.collection.busy))
    for done in ([True, False, False], [True, True, False]):
        assert work.pending == 1
        work.finish()
        assert has_buffers(world.root, first, second) == done
        assert is_busy(world)
        assert told == []
    work.finish()
    assert told == [False]
    assert has_buffers(world.root, first, second) == [True, True, False]  # first come, first served
    assert not second.in_tree
    assert work.pending == 0


def test_who_is_told_of_the_end_may_begin_again(world: World, work: SlowWork) -> None:
    world.bind(world.root)
    attached = world.attach(world.root)
    world.ready(world.root)
    told: list[str] = []
    world.collection.when_idle(lambda: world.ready(attached, constraints=wanting(0)))
    world.collection.when_idle(lambda: told.append("idle"))
    work.finish()
    assert is_busy(world)
    assert told == []
    work.finish()
    assert told == ["idle"]


def test_what_got_ready_meanwhile_has_its_turn_afterwards(world: World, work: SlowWork) -> None:
    world.bind(world.root)
    attached = world.attach(world.root)
    attached.release()
    world.ready(world.root)
    attached.client_closed()
    assert work.pending == 1
    assert in_tree(attached)
    work.finish()
    assert not in_tree(attached)  # no node is left in it
    assert has_buffers(world.root) == [True]


# --- what happens meanwhile ---


def test_what_leaves_the_tree_during_the_work_does_not_disturb_it(
    world: World, work: SlowWork
) -> None:
    world.bind(world.root)
    attached = world.attach(world.root)
    world.ready(world.root)
    attached.fail("its token was bound after a release")
    assert not in_tree(attached)
    work.finish()
    assert has_buffers(world.root) == [True]


@pytest.mark.parametrize("constraints", [wanting(), IMPOSSIBLE])
def test_a_tree_that_failed_meanwhile_gets_nothing(
    world: World, work: SlowWork, constraints: Any
) -> None:
    world.ready(world.root, constraints=constraints)
    world.root.fail("it doesn't read its answers")
    assert world.times_gone() == 1
    assert world.channels[world.root].closed
    work.finish()
    assert not is_busy(world)
    assert world.memory.requests == []
    assert world.root.outcome is None
    assert world.times_gone() == 1


def test_an_attached_participant_that_failed_meanwhile_reserves_nothing(
    world: World, work: SlowWork
) -> None:
    world.bind(world.root)
    first, second = world.attach(world.root), world.attach(world.root)
    world.ready(world.root, constraints=wanting(1, least=2))
    work.finish()
    world.ready(first)
    work.go_on()  # it is granted
    first.fail("it doesn't read its answers")
    work.go_on()
    assert has_buffers(first) == [False]
    world.ready(second)
    work.finish()
    assert has_buffers(second) == [True]


def test_a_participant_that_left_meanwhile_is_gone_for_the_next_attempt(
    world: World, work: SlowWork
) -> None:
    world.bind(world.root)
    first, second, third = (world.attach(world.root) for _ in range(3))
    world.bind(first, second, third)
    for name, node in (("first", first), ("second", second), ("third", third)):
        node.set_debug_client_info(type(node.client)(name, 1))
    world.ready(world.root, constraints=wanting(0, least=2))
    work.finish()
    world.ready(first, constraints=wanting(1))
    work.finish()
    world.ready(second, constraints=wanting(1))
    first.fail("it doesn't read its answers")
    work.finish()
    assert names(world)[1].startswith("first")
    assert has_buffers(second) == [True]
    world.ready(third, constraints=wanting(1))
    work.finish()
    assert has_buffers(third) == [True]
    assert [name.split()[0] for name in names(world)] == ["initiator", "second", "third"]


def test_the_last_strong_handle_may_go_during_an_attempt(world: World, work: SlowWork) -> None:
    world.bind(world.root)
    attached = world.attach(world.root)
    world.ready(world.root)
    work.finish()
    world.ready(attached, constraints=wanting(0))
    world.memory.on_no_strong()
    assert world.times_gone() == 0
    work.finish()
    assert world.channels[attached].answers == 1
    assert world.times_gone() == 1


def test_the_daemon_may_stop_during_an_attempt(world: World, work: SlowWork) -> None:
    world.ready(world.root)
    world.collection.shut_down()
    assert world.times_gone() == 1
    assert not world.is_open(world.root)


# --- what goes wrong ---


def test_an_attempt_that_breaks_ends_its_collection(
    world: World, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.engine, "aggregate", broken)
    world.ready(world.root)
    work.finish()
    assert world.times_gone() == 1
    assert not is_busy(world)
    (line,) = world.log.find("an internal error ended an allocation attempt")
    assert line.level == "error"
    assert line.fields["reason"] == "ZeroDivisionError('oh')"
    (line,) = world.log.find("collection failed")
    assert line.fields["cause"] == "the daemon failed"


def test_so_does_a_conclusion_that_breaks(
    world: World, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Node, "allocate", broken)
    world.ready(world.root)
    work.finish()
    assert world.times_gone() == 1
    assert world.log.find("an internal error ended an allocation attempt")


def test_an_attempt_that_breaks_after_its_collection_is_gone_is_only_logged(
    world: World, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.engine, "aggregate", broken)
    world.ready(world.root)
    world.collection.shut_down()
    work.finish()
    assert world.times_gone() == 1
    assert world.log.find("an internal error ended an allocation attempt")


# --- making the buffers takes time too ---


def test_until_the_buffers_are_made_nothing_has_happened(world: World, work: SlowWork) -> None:
    ask_for_buffers(world, work)
    assert is_busy(world)
    assert len(world.memory.requests) == 1
    assert has_buffers(world.root) == [False]
    assert world.memory.is_wanted()
    turns: list[Callable[[], None]] = []
    world.in_turn = turns.append
    world.memory.finish()
    assert is_busy(world)
    for turn in turns:
        turn()
    assert not is_busy(world)
    assert has_buffers(world.root) == [True]


def test_a_shortage_that_shows_late(world: World, work: SlowWork) -> None:
    ask_for_buffers(world, work)
    world.memory.error = NoMemoryError("no page left")
    world.memory.finish()
    assert world.root.outcome is Error.NO_MEMORY
    assert not is_busy(world)
    assert world.times_gone() == 1


@pytest.mark.parametrize("error", [None, NoMemoryError("the allocation is no longer wanted")])
def test_buffers_for_a_tree_that_failed_meanwhile(
    world: World, work: SlowWork, error: Exception | None
) -> None:
    world.memory.takes_time = True
    world.bind(world.root)
    attached = world.attach(world.root)
    world.ready(world.root)
    work.finish()
    told: list[str] = []
    world.collection.when_idle(lambda: told.append("idle"))
    world.root.fail("it doesn't read its answers")
    assert world.times_gone() == 1
    assert not world.memory.is_wanted()
    assert told == []
    world.memory.error = error
    world.memory.finish()
    assert told == ["idle"]
    assert [made.times_dropped() for made in world.memory.made] == [1] * (error is None)
    assert has_buffers(world.root, attached) == [False, False]
    assert not world.log.find("allocation failed")


def test_a_fault_while_buffers_are_made(world: World, work: SlowWork) -> None:
    ask_for_buffers(world, work)
    world.memory.error = ZeroDivisionError("oh")
    world.memory.finish()
    (line,) = world.log.find("an internal error ended an allocation attempt")
    assert "ZeroDivisionError" in line.fields["reason"]
    assert world.times_gone() == 1
    assert not is_busy(world)


# --- changes take time too ---


def test_a_tree_that_fails_lets_others_go_on_and_keeps_them_off(
    world: World, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = world.token(world.root)
    grandchild = world.token(child)
    monkeypatch.setattr("sysmemd.tree.failure.give_way", work.pause)
    work.do(world.root.client_closed)
    assert [node.in_tree for node in (world.root, child, grandchild)] == [True, True, False]
    assert is_busy(world)
    assert world.collection.is_changing
    child.fail("it doesn't read its answers")  # has to wait
    assert in_tree(child)
    told: list[str] = []
    world.collection.when_idle(lambda: told.append("idle"))
    while work.pending:
        assert told == []
        work.go_on()
    assert not in_tree(world.root)
    assert world.times_gone() == 1
    assert told == ["idle"]
    assert not is_busy(world)
    assert len(world.log.find("collection failed")) == 1


def test_an_attempt_that_ends_during_a_change_is_concluded_after_it(
    world: World, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.bind(world.root)
    attached = world.attach(world.root)
    below = world.token(attached)
    world.ready(world.root)
    work.go_on()  # there is a response
    monkeypatch.setattr("sysmemd.tree.failure.give_way", work.pause)
    work.do(lambda: attached.fail("its token was bound after a release"))
    assert [node.in_tree for node in (attached, below)] == [True, False]
    work.go_on()
    assert work.pending == 1
    assert has_buffers(world.root) == [False]
    assert is_busy(world)
    while work.pending:
        work.go_on()
    assert not in_tree(attached)
    assert has_buffers(world.root) == [True]
    assert world.channels[world.root].answers == 1
    assert not is_busy(world)


def test_what_an_attempt_comes_to_is_told_in_pieces(
    world: World, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = world.token(world.root)
    world.ready(child)
    world.ready(world.root)
    work.go_on()
    monkeypatch.setattr("sysmemd.tree.allocate.give_way", work.pause)
    work.go_on()
    assert has_buffers(world.root, child) == [True, False]
    assert world.collection.is_changing
    while work.pending:
        work.go_on()
    assert has_buffers(world.root, child) == [True, True]
    assert [world.channels[node].answers for node in (world.root, child)] == [1, 1]
    assert not is_busy(world)


def test_a_collection_that_ends_is_not_said_to_take_a_while(world: World) -> None:
    """The warning may come too late, or the search for the processes that delay it may take long."""
    late: list[Any] = []
    world.collection._who_has = lambda nodes, then: late.append(then)
    world.collection._warn_overdue(5)
    world.root.client_closed()
    late[0]({})
    world.collection._warn_overdue(35)
    assert len(late) == 1
    assert not world.log.find("allocation is taking a while")


def test_whom_a_long_negotiation_waits_for_is_found_while_the_tree_stays_as_it_is(
    world: World, work: SlowWork, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = [world.token(world.root) for _ in range(16)]
    monkeypatch.setattr("sysmemd.pause.give_way", work.pause)
    work.do(lambda: world.collection._warn_overdue(5))
    tokens[0].fail("it doesn't read its answers")  # has to wait
    assert in_tree(world.root)
    while work.pending:
        work.go_on()
    assert not in_tree(world.root)
    assert len(world.log.find("allocation is taking a while")) == 1


def test_a_warning_that_is_due_during_an_attempt_is_not_given_if_that_succeeds(
    world: World, work: SlowWork
) -> None:
    world.ready(world.root)
    world.collection._warn_overdue(5)
    work.finish()
    assert has_buffers(world.root) == [True]
    assert not world.log.find("allocation is taking a while")
