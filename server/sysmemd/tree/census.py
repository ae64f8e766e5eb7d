"""Running counts over the tree, so that no event has to walk it.

Three questions are asked after every event: which pruned subtrees have become ready, which failure domains have no
connected client left, is any node strong. Each is answered by counters that a node's own changes keep right:

- a pruned subtree counts its nodes that aren't ready;
- a node counts itself, while it is connected, and its children in or under which somebody is connected. When the
  count falls to 0 nobody is connected in it or under it, and never will be again, for only a connected client makes
  children. So every node tells its parent at most once, however deep the tree and however many failure domains are
  nested in it;
- the census counts strong nodes.

What has come up waits in `unattended` and `ready` until the collection settles.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .state import CONNECTED, READY, Isolation, State

if TYPE_CHECKING:
    from .node import Node


class PrunedSubtree:
    """A start node and all below it that is reached without passing an attached node: what is allocated together.

    A node belongs to the same pruned subtree for life.
    """

    __slots__ = ("allocated", "start", "unready")

    def __init__(self, start: Node) -> None:
        self.start = start
        self.unready = 0
        self.allocated = False

    @property
    def may_start(self) -> bool:
        """Whether it is this subtree's turn: it is the root's, or the one it is attached to has allocated."""
        parent = self.start.parent
        return parent is None or parent.subtree.allocated

    @property
    def is_ready(self) -> bool:
        """Whether an attempt to allocate is due."""
        return not self.allocated and self.unready == 0 and self.start.in_tree and self.may_start


class Census:
    """The counts of one collection."""

    __slots__ = ("ready", "strong", "unattended")

    def __init__(self) -> None:
        #: Nodes that keep buffers alive: neither weak nor orphans.
        self.strong = 0
        #: Failure domains that lost their last connected client, innermost first.
        self.unattended: list[Node] = []
        #: Pruned subtrees that may have become ready.
        self.ready: list[PrunedSubtree] = []

    def entered(self, node: Node) -> None:
        """A new node, connected and not ready, is in the tree."""
        node.subtree.unready += 1
        self.strong += not node.is_weak
        node.attended = 1
        if node.parent is not None:
            node.parent.attended += 1

    def weakened(self) -> None:
        """A strong node became weak."""
        self.strong -= 1

    def moved(self, node: Node, before: State, after: State) -> None:
        """A node went from one state to another; `FAILED` is leaving the tree."""
        if before not in READY and (after in READY or after is State.FAILED):
            node.subtree.unready -= 1
            if after is not State.FAILED:
                self.consider(node.subtree)
        if before in CONNECTED and after not in CONNECTED:
            self.strong -= not node.is_weak
            self._lost_one(node)

    def consider(self, subtree: PrunedSubtree) -> None:
        """Something changed that a subtree may have been waiting for."""
        if subtree.is_ready:
            self.ready.append(subtree)

    def take_unattended(self) -> list[Node]:
        """The failure domains without a connected client, each of them once."""
        taken, self.unattended = self.unattended, []
        return taken

    def take_ready(self) -> list[PrunedSubtree]:
        """The pruned subtrees to attempt now, in breadth-first order of the tree."""
        taken, self.ready = self.ready, []
        return taken

    def _lost_one(self, node: Node | None) -> None:
        """`node` counts one less: itself, or a child."""
        while node is not None:
            node.attended -= 1
            if node.attended:
                return
            if node.parent is None or node.isolation is not Isolation.PROPAGATE:
                self.unattended.append(node)
            node = node.parent
