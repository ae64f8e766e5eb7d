"""Selections of a pruned subtree: which child each group selects, from the most to the least preferred.

The groups of a selection are its visible ones: those not under a child that another group left out. They rank by
depth-first pre-order. Selections are counted like numbers whose lowest digit is the lowest-ranking group, but which
digits there are depends on the digits above; so each selection is found from the one before, and hidden groups are
never counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..pause import giving_way
from .data import NodeData
from .describe import is_group
from .walk import breadth_first, depth_first, joined_children


class Snapshot:
    """A copy of a pruned subtree. Later changes of the tree do not affect it."""

    __slots__ = ("children", "groups", "start")

    def __init__(self, start: NodeData) -> None:
        self.start = start
        #: Every node in breadth-first order, with its children in order of creation.
        self.children: dict[NodeData, tuple[NodeData, ...]] = {
            node: tuple(joined_children(node))
            for node in giving_way(breadth_first(start, joined_children))
        }
        self.groups = frozenset(filter(is_group, self.children))


class Selection:
    """One way to choose a child in every visible group below a start node."""

    __slots__ = ("_chosen", "_groups", "_snapshot")

    def __init__(self, snapshot: Snapshot, chosen: Mapping[NodeData, int] | None = None) -> None:
        """Create a selection with the given choices, and child 0 in all other groups."""
        self._snapshot = snapshot
        self._chosen = dict(chosen or {})
        #: Visible groups in order of rank, each with its children.
        self._groups: dict[NodeData, tuple[NodeData, ...]] = {}
        for node in depth_first(snapshot.start, self._visible_children):
            if node in snapshot.groups:
                self._groups[node] = snapshot.children[node]

    def _visible_children(self, node: NodeData) -> Iterable[NodeData]:
        children = self._snapshot.children[node]
        if node in self._snapshot.groups:
            return (children[self._chosen.get(node, 0)],)
        return children

    @property
    def choices(self) -> tuple[int, ...]:
        """The index of the selected child, for every visible group in order of rank."""
        return tuple(self._chosen.get(group, 0) for group in self._groups)

    def visible(self) -> Iterator[NodeData]:
        """Yield the visible nodes, in breadth-first order."""
        return breadth_first(self._snapshot.start, self._visible_children)

    @property
    def chosen(self) -> tuple[int, ...]:
        """The number of the selected child, for every visible group in order of rank."""
        chosen = self._chosen
        return tuple(kids[chosen.get(group, 0)].number for group, kids in self._groups.items())

    def hidden(self) -> Iterator[tuple[NodeData, NodeData]]:
        """Yield each child that a visible group left out, with the selected one.

        All descendants of the former are hidden too.
        """
        for group, children in self._groups.items():
            selected = children[self._chosen.get(group, 0)]
            yield from ((child, selected) for child in children if child is not selected)

    def next(self) -> Selection | None:
        """Return the next selection, or None. The lowest-ranking visible group that can advance does so."""
        groups = list(self._groups)
        while groups:
            group = groups.pop()
            following = self._chosen.get(group, 0) + 1
            if following < len(self._groups[group]):
                kept = {higher: self._chosen.get(higher, 0) for higher in groups}
                return Selection(self._snapshot, {**kept, group: following})
        return None
