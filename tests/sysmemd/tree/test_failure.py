"""How far failures go, and what is logged about them; `docs/spec/allocation.md`, "Failure" and "What clients see"."""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import cast

import pytest

from sysmem_protocol.sysmem2 import Error
from sysmemd.ports import ClientInfo, Signal
from sysmemd.tree import Cause, CollectionData, Failure, Node
from sysmemd.tree.ports import Buffers, NodeChannel

from ..recording import Line
from .world import IMPOSSIBLE, Event, World, wanting


@pytest.fixture
def world() -> World:
    return World()


def opened(world: World, *nodes: Node) -> list[bool]:
    return [world.is_open(node) for node in nodes]


# --- how far ---


def test_a_close_without_release_fails_the_whole_tree_by_default(world: World) -> None:
    child = world.token(world.root)
    other = world.token(world.root)
    child.client_closed()
    assert opened(world, world.root, child, other) == [False] * 3
    assert world.times_gone() == 1
    assert world.collection.is_gone
    assert list(world.collection.nodes()) == []


def test_a_broken_rule_fails_like_a_close(world: World) -> None:
    child = world.token(world.root)
    child.fail("bad magic")
    assert opened(world, world.root, child) == [False, False]
    failure = Failure(Cause.MISUSE, child.who(), "bad magic")
    assert world.root.failure == child.failure == world.collection.failure == failure
    child.fail("again")
    child.client_closed()
    assert world.times_gone() == 1


@pytest.mark.parametrize("refused", [False, True])
def test_why_a_root_fails_is_known_before_anybody_is_told(world: World, refused: bool) -> None:
    child = world.token(world.root)
    told: list[tuple[Cause, int, int]] = []

    def on_failure(collection: CollectionData) -> None:
        assert collection.failure is not None
        channels = [world.channels[node] for node in (world.root, child)]
        answers, closes = sum(one.answers for one in channels), sum(one.closes for one in channels)
        told.append((collection.failure.cause, answers, closes))

    world.collection.on_failure = on_failure
    if refused:
        world.ready(world.root, child, constraints=IMPOSSIBLE)
    else:
        child.client_closed()
    assert world.times_gone() == 1
    assert told == [(Cause.ALLOCATION if refused else Cause.CLOSED, 0, 0)]


@pytest.mark.parametrize("allocated", [False, True])
def test_dispensable_propagates_before_allocation_only(world: World, allocated: bool) -> None:
    dispensable = world.token(world.root)
    dispensable.set_dispensable()
    below = world.token(dispensable)
    beside = world.token(world.root)
    world.ready(world.root, dispensable, below)
    if allocated:
        world.ready(beside)
    below.client_closed()
    expected = [allocated, False, False, allocated]
    assert opened(world, world.root, dispensable, below, beside) == expected


@pytest.mark.parametrize("allocated", [False, True])
def test_attached_never_propagates(world: World, allocated: bool) -> None:
    world.bind(world.root)
    attached = world.attach(world.root)
    below = world.token(attached)
    if allocated:
        world.ready(world.root)
    below.client_closed()
    assert opened(world, world.root, attached, below) == [True, False, False]


def test_a_failure_above_takes_everything_below_along(world: World) -> None:
    world.ready(world.root)
    attached = world.attach(world.root)
    world.bind(attached)
    inner = world.attach(attached)
    attached.client_closed()
    assert opened(world, world.root, attached, inner) == [True, False, False]


def test_nodes_leave_bottom_up(world: World) -> None:
    order: list[Node] = []
    group = world.group(world.root)
    nodes = [world.root, group, world.token(group), world.token(group)]
    for node in nodes:
        event = Event()
        event.close = lambda node=node: order.append(node)  # type: ignore[method-assign, misc]
        node.attach_node_tracking(event)
    world.root.fail("")
    assert order == [nodes[3], nodes[2], group, world.root]


def test_when_the_root_fails_the_server_drops_its_own_handles(world: World) -> None:
    world.ready(world.root)
    assert world.buffers.times_dropped() == 0
    world.root.client_closed()
    assert world.buffers.times_dropped() == 1


def test_the_daemons_stop_fails_everything_quietly(world: World) -> None:
    world.token(world.root)
    world.collection.shut_down()
    world.collection.shut_down()
    assert world.times_gone() == 1
    assert [line.level for line in world.log.entries] == ["debug"]


def test_the_daemon_may_stop_while_a_failure_of_the_root_is_interrupted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work is interrupted where it gives way, and the daemon may stop in between."""
    interrupted = []

    def stop() -> None:
        if not world.root.in_tree:
            interrupted.append(True)
            world.collection.shut_down()

    monkeypatch.setattr("sysmemd.tree.failure.give_way", stop)
    world.root.client_closed()
    assert interrupted
    assert world.collection.is_gone


# --- domains without clients ---


def test_a_root_without_clients_after_allocation_is_the_normal_end(world: World) -> None:
    child = world.token(world.root)
    world.ready(world.root, child)
    world.retire(world.root)
    assert not world.times_gone()
    world.retire(child)
    assert world.times_gone() == 1
    assert {line.level for line in world.log.entries} == {"debug"}


def test_a_root_without_clients_before_allocation_is_logged_as_an_error(world: World) -> None:
    world.retire(world.root)
    assert world.times_gone() == 1
    (line,) = world.log.entries
    assert (line.level, line.event) == ("error", "collection failed")
    assert line.fields["cause"] == "no connected client left"


def test_released_but_not_closed_still_counts_as_connected(world: World) -> None:
    world.ready(world.root)
    world.root.release()
    assert not world.times_gone()


def test_a_dispensable_domain_without_clients_reaches_its_parent_before_allocation(
    world: World,
) -> None:
    dispensable = world.token(world.root)
    dispensable.set_dispensable()
    world.bind(dispensable)
    world.retire(dispensable)
    assert world.times_gone() == 1


def test_a_dispensable_domain_without_clients_leaves_alone_after_allocation(world: World) -> None:
    dispensable = world.token(world.root)
    dispensable.set_dispensable()
    event = Event()
    dispensable.attach_node_tracking(event)
    world.ready(dispensable, world.root)
    world.retire(dispensable)
    assert event.closed
    assert opened(world, world.root) == [True]
    assert world.log.entries[-1].level == "debug"


def test_a_client_under_a_domain_keeps_it(world: World) -> None:
    world.ready(world.root, constraints=wanting(0, least=1))
    outer = world.attach(world.root)
    world.ready(outer, constraints=wanting(0))
    inner = world.attach(outer)
    world.retire(outer)
    assert outer in world.collection.nodes()
    world.retire(inner)
    assert list(world.collection.nodes()) == [world.root]
    causes = [
        (line.fields["cause"], line.fields["node"]) for line in world.log.find("nodes failed")
    ]
    assert causes == [
        ("no connected client left", "token 3"),
        ("no connected client left", "collection 2"),
    ]  # innermost first


# --- what clients see ---


def test_own_allocation_succeeds(world: World) -> None:
    world.ready(world.root)
    assert world.channels[world.root].answers == 1
    assert world.is_open(world.root)


def test_own_allocation_fails(world: World) -> None:
    world.ready(world.root, constraints=IMPOSSIBLE)
    assert world.root.outcome is Error.CONSTRAINTS_INTERSECTION_EMPTY
    assert world.channels[world.root].answers == 1
    assert not world.is_open(world.root)


def test_hidden_by_a_group_selection(world: World) -> None:
    group = world.group(world.root)
    chosen, hidden = world.token(group), world.token(group)
    below = world.token(hidden)
    world.ready(world.root, chosen, hidden, below)
    group.all_children_present()
    assert opened(world, world.root, group, chosen) == [True] * 3
    assert opened(world, hidden, below) == [False] * 2
    assert (
        hidden.failure
        is below.failure
        == Failure(Cause.NOT_SELECTED, hidden.who(), "", chosen.who())
    )
    assert world.channels[hidden].answers == world.channels[below].answers == 0


def test_another_participants_failure_before_allocation(world: World) -> None:
    child = world.token(world.root)
    world.ready(world.root)
    world.root.wait_for_all_buffers_allocated()
    child.client_closed()
    assert world.channels[world.root].answers == 0
    assert not world.is_open(world.root)


def test_another_participants_failure_after_allocation(world: World) -> None:
    child = world.token(world.root)
    world.ready(world.root, child)
    child.client_closed()
    assert world.channels[world.root].answers == 1
    assert not world.is_open(world.root)


def test_own_protocol_violation(world: World) -> None:
    child = world.token(world.root)
    world.ready(world.root)
    world.root.wait_for_all_buffers_allocated()
    world.root.fail("unknown ordinal")
    assert world.channels[world.root].answers == 0
    assert opened(world, world.root, child) == [False, False]


def test_a_released_client_is_not_told(world: World) -> None:
    child = world.token(world.root)
    world.ready(child)
    child.release()
    world.ready(world.root)
    assert world.channels[child].answers == 0
    assert child.outcome is not None


# --- strong and weak ---


def test_no_strong_node_left_before_allocation_fails_the_tree_at_once(world: World) -> None:
    weak = world.token(world.root)
    weak.set_weak()
    assert world.is_open(weak)
    world.retire(world.root)
    assert world.times_gone() == 1
    assert world.log.entries[-1].fields["cause"] == "no strong node left"
    assert world.log.entries[-1].level == "error"


def test_the_only_node_made_weak_fails_at_once(world: World) -> None:
    world.root.set_weak()
    assert world.times_gone() == 1


def test_no_strong_node_left_after_allocation_drops_the_servers_hold(world: World) -> None:
    weak = world.token(world.root)
    weak.set_weak()
    world.ready(world.root, weak)
    world.retire(world.root)
    assert world.buffers.times_dropped() == 1
    assert world.is_open(weak)
    weak.wait_for_all_buffers_allocated()
    world.memory.on_no_strong()
    assert not world.is_open(weak)
    assert world.times_gone() == 1
    assert world.buffers.times_dropped() == 1
    world.memory.on_no_strong()  # a late event about a node that is gone
    assert world.times_gone() == 1


def test_an_orphan_is_not_strong_but_its_children_are(world: World) -> None:
    child = world.token(world.root)
    world.ready(world.root, child)
    world.retire(world.root)
    assert world.buffers.times_dropped() == 0


# --- what is said ---


def the_line(world: World) -> Line:
    (line,) = world.log.entries
    return line


def test_a_line_names_collection_client_node_and_reach(world: World) -> None:
    world.root.set_name(1, "camera")
    child = world.token(world.root)
    world.bind(child, client=ClientInfo("display", 7))
    child.client_closed()
    line = the_line(world)
    assert line.level == "error"
    assert line.event == "collection failed"
    assert line.fields == {
        "collection_id": 7,
        "collection_name": "camera",
        "node": "collection 2",
        "client_name": "display",
        "client_id": 7,
        "cause": "closed without Release",
        "up_to": "token 1",
        "nodes": 2,
    }


def test_a_protocol_violation_is_logged_with_its_reason(world: World) -> None:
    world.bind(world.root)
    attached = world.attach(world.root)
    attached.fail("a second SetConstraints")
    line = the_line(world)
    assert (line.level, line.event) == ("error", "nodes failed")
    assert line.fields["reason"] == "a second SetConstraints"
    assert line.fields["up_to"] == "token 2"


def test_verbose_logging_says_at_info_who_closed_first_and_how_far_it_went(world: World) -> None:
    world.ready(world.root)
    world.root.set_verbose_logging()
    attached = world.attach(world.root)
    world.retire(attached)
    world.root.client_closed()
    assert [(line.level, line.fields["up_to"]) for line in world.log.entries[-2:]] == [
        ("info", "token 2"),
        ("info", "collection 1"),
    ]


# --- what fails on the way ---


class Failing:
    """Stands for an object whose end raises, although it has ended."""

    def __init__(self) -> None:
        self.ends = 0

    def when_gone(self, callback: Callable[[], object]) -> None:
        """Its client stays."""

    def close(self) -> None:
        self.ends += 1
        raise OSError(errno.EIO, "Input/output error")

    drop_strong = close


@pytest.mark.parametrize("what", ["channel", "tracking", "ref", "charge", "memory"])
def test_what_fails_on_the_way_stops_no_end(world: World, what: str) -> None:
    failing = Failing()
    child, beside = world.token(world.root), world.token(world.root)
    trackings = [Event() for _ in range(4)]
    for node, tracking in zip((child, child, beside, world.root), trackings, strict=True):
        node.attach_node_tracking(tracking)
    if what == "channel":
        child._channel = cast("NodeChannel", failing)
    elif what == "tracking":
        child.attach_node_tracking(cast("Signal", failing))
    elif what == "memory":
        world.ready(world.root, child, beside)
        world.collection.buffers = cast("Buffers", failing)
    else:
        setattr(child, what, failing)
    world.root.fail("bad magic")
    assert failing.ends == 1
    assert [node.in_tree for node in (world.root, child, beside)] == [False] * 3
    assert all(tracking.closed for tracking in trackings)
    assert not world.is_open(beside)
    assert world.times_gone() == 1
    [fields] = [line.fields for line in world.log.entries if "an error occurred" in line.event]
    assert "Input/output error" in fields["reason"]
