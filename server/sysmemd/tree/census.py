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

from . import state
from .data import NodeData, PrunedSubtree
from .state import CONNECTED, READY, Event, Isolation, State


def entered(node: NodeData) -> None:
    """Count a new node, connected and not ready."""
    node.subtree.unready += 1
    node.collection.census.strong += not node.is_weak
    node.attended = 1
    if node.parent is not None:
        node.parent.attended += 1


def weakened(node: NodeData) -> None:
    """Count a strong node that became weak."""
    node.collection.census.strong -= 1


def step(node: NodeData, event: Event) -> None:
    """Change a node's state, the only place that does; `FAILED` is leaving the tree.

    Raises `Misuse` when the event isn't allowed in its state.
    """
    before, after = node.state, state.step(node.state, event)
    node.state = after
    if before not in READY and (after in READY or after is State.FAILED):
        node.subtree.unready -= 1
        if after is not State.FAILED:
            consider(node.subtree)
    if before in CONNECTED and after not in CONNECTED:
        node.collection.census.strong -= not node.is_weak
        _lost_one(node)


def consider(subtree: PrunedSubtree) -> None:
    """Take note of a subtree for which something changed that it may have been waiting for."""
    if subtree.is_ready:
        subtree.start.collection.census.ready.append(subtree)


def _lost_one(node: NodeData | None) -> None:
    """Count one less in `node`: itself, or a child."""
    while node is not None:
        node.attended -= 1
        if node.attended:
            return
        if node.parent is None or node.isolation is not Isolation.PROPAGATE:
            node.collection.census.unattended.append(node)
        node = node.parent
