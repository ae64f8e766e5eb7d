"""Traversal orders of the tree. All traversals are loops, not recursions, so that chains of thousands of nodes work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator

from .data import NodeData


def breadth_first(
    start: NodeData, children: Callable[[NodeData], Iterable[NodeData]]
) -> Iterator[NodeData]:
    """Yield `start` and its descendants in breadth-first order, siblings in order of creation."""
    queue = deque([start])
    while queue:
        node = queue.popleft()
        yield node
        queue.extend(children(node))


def depth_first(
    start: NodeData, children: Callable[[NodeData], Iterable[NodeData]]
) -> Iterator[NodeData]:
    """Yield `start` and its descendants in depth-first pre-order."""
    stack = [start]
    while stack:
        node = stack.pop()
        yield node
        stack.extend(reversed(tuple(children(node))))


def all_children(node: NodeData) -> Iterable[NodeData]:
    """Return all children."""
    return node.children


def joined_children(node: NodeData) -> Iterable[NodeData]:
    """Return the children that allocate together with `node`: all but attached ones."""
    return [child for child in node.children if child.subtree is node.subtree]


def allocated_children(node: NodeData) -> Iterable[NodeData]:
    """Return the children that have (logically) allocated."""
    return [child for child in node.children if child.has_allocated]


def compare_breadth_first(one: NodeData, other: NodeData) -> int:
    """Compare two nodes by breadth-first order: negative, 0 or positive."""
    if one.depth != other.depth:
        return one.depth - other.depth
    while one.parent is not other.parent:
        assert one.parent is not None
        assert other.parent is not None
        one, other = one.parent, other.parent
    return one.number - other.number


def nearest_common_ancestor(one: NodeData, other: NodeData) -> NodeData:
    """Return the lowest node that is an ancestor of both. A node counts as its own ancestor."""
    while one is not other:
        deeper, shallower = (one, other) if one.depth >= other.depth else (other, one)
        assert deeper.parent is not None, "nodes of two trees"
        one, other = deeper.parent, shallower
    return one
