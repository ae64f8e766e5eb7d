"""Running counts over the tree."""

from __future__ import annotations

import pytest

from .world import World, wanting


@pytest.fixture
def world() -> World:
    return World()


def test_a_pruned_subtree_counts_who_is_not_ready(world: World) -> None:
    child = world.token(world.root)
    world.bind(world.root)
    attached = world.attach(world.root)
    subtree = world.root.subtree
    assert child.subtree is subtree
    assert attached.subtree is not subtree
    assert (subtree.unready, attached.subtree.unready) == (2, 1)
    world.ready(child)
    assert subtree.unready == 1
    world.retire(child)  # as ready as before
    assert subtree.unready == 1
    below = attached.subtree
    attached.client_closed()
    assert (subtree.unready, below.unready) == (1, 0)


def test_a_subtree_may_start_when_the_one_it_is_attached_to_has_allocated(world: World) -> None:
    world.bind(world.root)
    subtree = world.attach(world.root).subtree
    assert world.root.subtree.may_start
    before = subtree.may_start
    world.ready(world.root)
    assert (before, subtree.may_start) == (False, True)
    assert not subtree.is_ready
    assert not world.root.subtree.is_ready  # it has allocated


def test_strong_nodes_are_counted(world: World) -> None:
    census = world.collection.census
    weak = world.token(world.root)
    counts = [census.strong]
    weak.set_weak()
    counts.append(census.strong)
    world.token(weak)
    counts.append(census.strong)
    other = world.token(world.root)
    counts.append(census.strong)
    world.retire(other)
    counts.append(census.strong)
    assert counts == [2, 1, 1, 2, 1]


def test_a_node_counts_itself_and_the_children_under_which_somebody_is_connected(
    world: World,
) -> None:
    child = world.token(world.root)
    below = world.token(child)
    counts = [(world.root.attended, child.attended, below.attended)]
    world.retire(child)
    counts.append((world.root.attended, child.attended, below.attended))
    world.retire(below)
    counts.append((world.root.attended, child.attended, below.attended))
    assert counts == [(2, 2, 1), (2, 1, 1), (1, 0, 0)]


def test_what_has_come_up_is_told_once(world: World) -> None:
    world.ready(world.root, constraints=wanting(0, least=1))
    attached = world.attach(world.root)
    world.ready(attached)
    census = world.collection.census
    assert census.take_ready() == []
    assert census.take_unattended() == []
