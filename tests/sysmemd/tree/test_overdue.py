"""The warnings that allocation is taking a while; SetDebugTimeoutLogDeadline in `docs/spec/protocol.md`, "Node"."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from sysmemd.ports import ClientInfo

from ..recording import Line
from .world import IMPOSSIBLE, World

SECOND = 10**9


@pytest.fixture
def world() -> World:
    return World()


def warnings(world: World) -> list[Line]:
    return world.log.find("allocation is taking a while")


def times(world: World) -> list[float]:
    return [line.fields["seconds"] for line in warnings(world)]


def test_five_seconds_after_creation_then_once_more_thirty_seconds_later(world: World) -> None:
    world.clock.advance(4.9)
    assert times(world) == []
    world.clock.advance(0.1)
    assert times(world) == [5]
    world.clock.advance(1000)
    assert times(world) == [5, 35]
    assert {line.level for line in warnings(world)} == {"warning"}
    assert not world.clock.pending


def test_a_warning_names_the_processes_that_are_waited_for(world: World) -> None:
    child = world.token(world.root)
    world.ready(world.root)
    asked: list[object] = []

    def who_has(nodes: Sequence[object], then: Callable[[Mapping[int, str]], None], /) -> None:
        asked.extend(nodes)
        then({child.number: "camera (12)", 4711: "somebody else"})

    world.collection._who_has = who_has
    world.clock.advance(5)
    assert asked == [child]
    [line] = warnings(world)
    assert line.fields["held_by"] == ["token 2: camera (12)"]


def test_a_client_can_move_the_first_warning(world: World) -> None:
    world.root.set_debug_timeout_log_deadline(world.clock.now() + 60 * SECOND)
    world.clock.advance(59)
    assert times(world) == []
    world.clock.advance(100)
    assert times(world) == [60, 90]


def test_a_deadline_is_ignored_once_the_first_warning_was_given(world: World) -> None:
    world.clock.advance(5)
    world.root.set_debug_timeout_log_deadline(world.clock.now() + SECOND)
    world.clock.advance(100)
    world.root.set_debug_timeout_log_deadline(world.clock.now() + SECOND)
    world.clock.advance(100)
    assert times(world) == [5, 35]


def test_a_deadline_is_ignored_once_allocation_finished(world: World) -> None:
    world.ready(world.root)
    world.root.set_debug_timeout_log_deadline(world.clock.now() + SECOND)
    world.clock.advance(100)
    assert times(world) == []


@pytest.mark.parametrize("how", ["allocated", "failed", "closed"])
def test_the_timer_is_cancelled_with_allocation_or_the_collection(world: World, how: str) -> None:
    if how == "closed":
        world.root.client_closed()
    else:
        world.ready(world.root, constraints=IMPOSSIBLE if how == "failed" else None)
    assert not world.clock.pending
    world.clock.advance(100)
    assert times(world) == []


def test_an_attached_token_that_nobody_turns_in_is_no_reason_to_warn(world: World) -> None:
    world.bind(world.root)
    world.attach(world.root)
    world.ready(world.root)
    world.clock.advance(100)
    assert times(world) == []


def test_it_lists_by_name_and_id_what_takes_part_in_the_initial_allocation(world: World) -> None:
    def child(name: str, id: int) -> None:
        world.root.client = ClientInfo(name, id)

    world.root.set_name(1, "camera")
    child("token", 1)
    world.token(world.root)
    child("released token", 2)
    world.token(world.root).release()
    child("orphan", 3)
    world.retire(world.token(world.root))
    child("without", 4)
    world.bind(world.token(world.root))
    child("without, released", 5)
    node = world.token(world.root)
    world.bind(node)
    node.release()
    child("with", 6)
    node = world.token(world.root)
    world.ready(node)
    child("with, orphan", 7)
    node = world.token(world.root)
    world.ready(node)
    world.retire(node)
    child("incomplete", 8)
    world.group(world.root)
    child("complete", 9)
    group = world.group(world.root)
    world.token(group)
    group.all_children_present()
    child("", 10)
    world.bind(world.root)
    world.attach(world.root)
    world.clock.advance(5)
    (line,) = warnings(world)
    assert line.fields == {
        "collection_id": 7,
        "collection_name": "camera",
        "node": "collection 1",
        "client_name": "",
        "client_id": 10,
        "seconds": 5,
        "tokens_not_turned_in": ["token (1)", "released token (2)", "complete (9)"],
        "collections_without_constraints": [
            "unnamed client (10)",
            "without (4)",
            "without, released (5)",
        ],
        "collections_with_constraints": ["with (6)", "with, orphan (7)"],
        "groups_without_all_children": ["incomplete (8)"],
    }
