"""How far a failure goes, what goes with it, and how loudly that is said (spec/allocation.md, Failure)."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from .describe import Level, who
from .outcome import Allocated
from .state import STOPS_FAILURE
from .walk import all_children, breadth_first

if TYPE_CHECKING:
    from .node import Node


class Cause(enum.Enum):
    """Why a node fails."""

    MISUSE = "broke the protocol"
    CLOSED = "closed without Release"
    NO_CLIENTS = "no connected client left"
    NO_STRONG_NODES = "no strong node left"
    NO_STRONG_HANDLES = "no strong handle to any buffer left"
    ALLOCATION = "allocation failed"
    NOT_SELECTED = "not selected by its group"
    SHUT_DOWN = "the daemon is stopping"


#: cause → the level of its log line (before the root has allocated, after). What goes wrong before there are buffers
#: is what developers look for; afterwards the end of a node is mostly the end of its work. The line of a failed
#: allocation, with the reason, was written before.
LEVELS: Final = {
    Cause.MISUSE: (Level.ERROR, Level.ERROR),
    Cause.CLOSED: (Level.ERROR, Level.DEBUG),
    Cause.NO_CLIENTS: (Level.ERROR, Level.DEBUG),
    Cause.NO_STRONG_NODES: (Level.ERROR, Level.DEBUG),
    Cause.NO_STRONG_HANDLES: (Level.DEBUG, Level.DEBUG),
    Cause.ALLOCATION: (Level.DEBUG, Level.DEBUG),
    Cause.NOT_SELECTED: (Level.DEBUG, Level.DEBUG),
    Cause.SHUT_DOWN: (Level.DEBUG, Level.DEBUG),
}


def stopping_point(node: Node) -> Node:
    """Where the failure of `node` stops: this node and everything below it fails."""
    while node.parent is not None:
        if STOPS_FAILURE[node.isolation, isinstance(node.outcome, Allocated)]:
            break
        node = node.parent
    return node


def fail(node: Node, cause: Cause, reason: str = "") -> None:
    """Fail `node` and, as far as isolation lets it, what is above it, with everything below."""
    fail_subtree(stopping_point(node), cause, node, reason)


def fail_subtree(top: Node, cause: Cause, first: Node, reason: str = "") -> None:
    """Fail `top` and everything below it, bottom up, and nothing above it; `first` is where it began."""
    collection = top.collection
    leaving = list(breadth_first(top, all_children))
    before, after = LEVELS[cause]
    whole = top.parent is None
    level = after if collection.is_allocated else before
    if level is Level.ERROR and not whole and cause is not Cause.MISUSE:
        level = Level.WARNING  # the rest of the tree goes on
    if level is Level.DEBUG and collection.verbose:
        level = Level.INFO
    fields = {"reason": reason} if reason else {}
    collection.say(
        level,
        "collection failed" if whole else "nodes failed",
        first,
        cause=cause.value,
        up_to=who(top)["node"],
        whole_collection=whole,
        nodes=len(leaving),
        **fields,
    )
    for node in reversed(leaving):
        node.leave()
    if whole:
        collection.end()
