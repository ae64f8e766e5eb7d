"""The orders in which the tree is traversed."""

from __future__ import annotations

from functools import cmp_to_key

import pytest

from sysmemd.tree import Node
from sysmemd.tree.walk import (
    all_children,
    breadth_first,
    compare_breadth_first,
    depth_first,
    joined_children,
    nearest_common_ancestor,
)

from .world import World


@pytest.fixture
def nodes() -> list[Node]:
    """Return nodes in breadth-first order: root; a, b; a1, a2, b1. b1 was created before a2."""
    world = World()
    a, b = world.token(world.root), world.token(world.root)
    a1, b1, a2 = world.token(a), world.token(b), world.token(a)
    return [world.root, a, b, a1, a2, b1]


def test_breadth_first(nodes: list[Node]) -> None:
    assert list(breadth_first(nodes[0], all_children)) == nodes


def test_depth_first(nodes: list[Node]) -> None:
    root, a, b, a1, a2, b1 = nodes
    assert list(depth_first(root, all_children)) == [root, a, a1, a2, b, b1]


def test_comparing_agrees_with_walking(nodes: list[Node]) -> None:
    shuffled = nodes[::-1]
    assert sorted(shuffled, key=cmp_to_key(compare_breadth_first)) == nodes
    assert compare_breadth_first(nodes[3], nodes[3]) == 0


def test_joined_children_leave_out_attached_ones() -> None:
    world = World()
    child = world.token(world.root)
    world.bind(world.root)
    world.attach(world.root)
    assert list(joined_children(world.root)) == [child]


def test_nearest_common_ancestor(nodes: list[Node]) -> None:
    root, a, b, a1, a2, b1 = nodes
    assert nearest_common_ancestor(a1, a2) is a
    assert nearest_common_ancestor(a1, b1) is root
    assert nearest_common_ancestor(b1, a) is root
    assert nearest_common_ancestor(b, b1) is b
    assert nearest_common_ancestor(a, a) is a
