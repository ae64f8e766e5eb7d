"""Running counts over the tree, so that no event has to walk it.

After every event there are three questions: which pruned subtrees have become ready, which failure domains have no
connected client left, and is any node strong. Counters answer them, which each node's own changes keep up to date:

- A pruned subtree counts its nodes that are not ready.
- A node counts itself, while it is connected, and its children that have a connected client at or below them. If the
  count falls to 0, no client is connected at or below the node, and none ever will be, because only a connected client
  creates children. So every node notifies its parent at most once, however deep the tree is and however many failure
  domains are nested in it.
- The census counts strong nodes.

Results wait in `unattended` and `ready` until the collection settles.
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
    """Change a node's state. Nothing else does. `FAILED` means leaving the tree.

    Raises `Misuse` if the event is not allowed in its state.
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
    """Register a subtree whose attempt may have become possible."""
    if subtree.is_ready:
        subtree.start.collection.census.ready.append(subtree)


def _lost_one(node: NodeData | None) -> None:
    """Decrement the count of `node` for itself or a child."""
    while node is not None:
        node.attended -= 1
        if node.attended:
            return
        if node.parent is None or node.isolation is not Isolation.PROPAGATE:
            node.collection.census.unattended.append(node)
        node = node.parent
