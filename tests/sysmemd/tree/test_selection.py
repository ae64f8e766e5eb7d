"""Group selections in the order of priority, and their limit; `docs/spec/allocation.md`, "Logical allocation"."""

from __future__ import annotations

import pytest

from sysmem_protocol.sysmem2 import Error
from sysmemd.tree import Allocated, Node
from sysmemd.tree.selection import Selection, Snapshot

from .world import IMPOSSIBLE, World, wanting


def group_of(world: World, parent: Node, count: int = 2) -> tuple[Node, list[Node]]:
    group = world.group(parent)
    return group, [world.token(group) for _ in range(count)]


def every_selection(start: Node) -> list[tuple[int, ...]]:
    found = []
    selection: Selection | None = Selection(Snapshot(start))
    while selection is not None:
        found.append(selection.choices)
        selection = selection.next()
    return found


def settle_all(world: World, viable: set[Node]) -> None:
    """Make all nodes ready. Leaves that are not viable ask for something impossible."""
    for node in list(world.collection.nodes()):
        assert isinstance(node, Node)
        if node.kind.value == "group":
            node.all_children_present()
        else:
            possible = bool(node.children) or node in viable
            world.ready(node, constraints=wanting() if possible else IMPOSSIBLE)


# --- the order ---


def test_without_groups_there_is_one_selection() -> None:
    world = World()
    child = world.token(world.root)
    selection = Selection(Snapshot(world.root))
    assert every_selection(world.root) == [()]
    assert list(selection.visible()) == [world.root, child]
    assert list(selection.hidden()) == []


def test_sibling_groups_count_the_later_one_first() -> None:
    world = World()
    group_of(world, world.root, 2)
    group_of(world, world.root, 3)
    assert every_selection(world.root) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_groups_rank_depth_first_a_nested_one_above_a_later_sibling() -> None:
    world = World()
    _, (first, _) = group_of(world, world.root)
    group_of(world, first)
    group_of(world, world.root)
    assert every_selection(world.root) == [
        (0, 0, 0),
        (0, 0, 1),
        (0, 1, 0),
        (0, 1, 1),
        (1, 0),
        (1, 1),
    ]


def test_hidden_groups_are_never_counted() -> None:
    world = World()
    _, (_, second) = group_of(world, world.root)
    group_of(world, second)
    assert every_selection(world.root) == [(0,), (1, 0), (1, 1)]


def test_visible_and_hidden() -> None:
    world = World()
    group, (first, second) = group_of(world, world.root)
    below = world.token(first)
    selection = Selection(Snapshot(world.root))
    assert list(selection.visible()) == [world.root, group, first, below]
    assert list(selection.hidden()) == [(second, first)]
    assert selection.chosen == (first.number,)
    following = selection.next()
    assert following is not None
    assert list(following.visible()) == [world.root, group, second]
    assert list(following.hidden()) == [(first, second)]


def test_attached_nodes_are_no_part_of_a_selection() -> None:
    world = World()
    child = world.token(world.root)
    world.bind(child)
    world.attach(child)
    assert list(Selection(Snapshot(world.root)).visible()) == [world.root, child]


# --- the bound ---


@pytest.mark.parametrize("nested_in", [0, 1])
def test_63_nested_groups_with_one_viable_selection_the_64th_tried(nested_in: int) -> None:
    world = World()
    parent = world.root
    leaves = []
    for _ in range(63):
        _, children = group_of(world, parent)
        parent = children.pop(nested_in)
        leaves += children
    # If groups are nested in first children, the outermost second child is tried last; if in second children, the
    # innermost
    viable = {leaves[0]} if nested_in == 0 else {parent}
    settle_all(world, viable)
    assert isinstance(world.root.outcome, Allocated)
    assert len(world.engine.calls) == 64
    assert all(world.is_open(node) for node in viable)
    attempt = world.collection.last_attempt
    assert attempt is not None
    assert len(attempt.refused) == 63


def test_64_nested_groups_are_one_selection_too_many() -> None:
    world = World()
    parent = world.root
    for _ in range(64):
        _, (_, parent) = group_of(world, parent)
    settle_all(world, {parent})
    assert world.root.outcome is Error.TOO_MANY_GROUP_CHILD_COMBINATIONS
    assert len(world.engine.calls) == 64


def test_64_sibling_groups_without_a_viable_selection_end_at_once() -> None:
    world = World()
    for _ in range(64):
        group_of(world, world.root)
    settle_all(world, set())
    assert world.root.outcome is Error.TOO_MANY_GROUP_CHILD_COMBINATIONS
    assert len(world.engine.calls) == 64
    assert world.times_gone() == 1


def test_when_no_selection_is_left_the_intersection_is_empty() -> None:
    world = World()
    group_of(world, world.root, 64)
    settle_all(world, set())
    assert world.root.outcome is Error.CONSTRAINTS_INTERSECTION_EMPTY
    assert len(world.engine.calls) == 64


def test_the_bound_is_a_setting() -> None:
    world = World(max_group_selections=2)
    group_of(world, world.root, 3)
    settle_all(world, set())
    assert world.root.outcome is Error.TOO_MANY_GROUP_CHILD_COMBINATIONS
    assert len(world.engine.calls) == 2


def test_one_refusal_per_tried_selection_is_kept_and_logged() -> None:
    world = World()
    group_of(world, world.root, 3)
    settle_all(world, set())
    attempt = world.collection.last_attempt
    assert attempt is not None
    assert [entry.choices for entry in attempt.refused] == [(0,), (1,), (2,)]
    assert [entry.chosen for entry in attempt.refused] == [(3,), (4,), (5,)]
    (line,) = world.log.find("allocation failed")
    assert line.fields["reason"].startswith("3 buffers are wanted, 1 allowed")
    assert line.fields["further_selections"] == [
        f"[{index}]: 3 buffers are wanted, 1 allowed" for index in (1, 2)
    ]


def test_the_first_viable_selection_wins() -> None:
    world = World()
    group, children = group_of(world, world.root, 4)
    settle_all(world, {children[1], children[2]})
    assert [world.is_open(child) for child in children] == [False, True, False, False]
    assert world.is_open(group)
