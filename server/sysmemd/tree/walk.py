"""Orders of the tree. All walks are loops: a chain of thousands of nodes is as good as any other tree."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from .data import NodeData


def breadth_first(
    start: NodeData, children: Callable[[NodeData], Iterable[NodeData]]
) -> Iterator[NodeData]:
    """`start` and all below it level by level, siblings in order of creation."""
    level: list[NodeData] = [start]
    while level:
        yield from level
        level = [child for node in level for child in children(node)]


def depth_first(
    start: NodeData, children: Callable[[NodeData], Iterable[NodeData]]
) -> Iterator[NodeData]:
    """`start` and all below it in pre-order: parents before children, earlier siblings and all below before later."""
    stack = [start]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(tuple(children(node))))


def all_children(node: NodeData) -> Iterable[NodeData]:
    """Every child."""
    return node.children


def joined_children(node: NodeData) -> Iterable[NodeData]:
    """The children that allocate together with `node`: the attached ones left out."""
    return [child for child in node.children if child.subtree is node.subtree]


def allocated_children(node: NodeData) -> Iterable[NodeData]:
    """The children that have (logically) allocated."""
    return [child for child in node.children if child.has_allocated]


def compare_breadth_first(one: NodeData, other: NodeData) -> int:
    """Negative, 0 or positive: whether `one` comes before, is, or comes after `other` in breadth-first order."""
    if one.depth != other.depth:
        return one.depth - other.depth
    while one.parent is not other.parent:
        assert one.parent is not None
        assert other.parent is not None
        one, other = one.parent, other.parent
    return one.number - other.number


def nearest_common_ancestor(one: NodeData, other: NodeData) -> NodeData:
    """The lowest node that has both below it; a node counts as its own ancestor."""
    while one is not other:
        deeper, shallower = (one, other) if one.depth >= other.depth else (other, one)
        assert deeper.parent is not None, "nodes of two trees"
        one, other = deeper.parent, shallower
    return one
