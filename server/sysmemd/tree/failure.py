"""Failure: its propagation, the nodes that fail, and its log entries (`docs/spec/allocation.md`, "Failure")."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import chain
from typing import Final, NamedTuple

from ..ends import every
from ..pause import give_way, giving_way
from .census import step
from .data import Cause, Failure, NodeData
from .describe import who
from .ports import Level
from .state import STOPS_FAILURE, Event
from .walk import all_children, breadth_first


class Loudness(NamedTuple):
    """The level of a failure's log entry, by what fails."""

    #: The whole collection before it has buffers. Developers look for this.
    unallocated: Level
    #: The whole collection after it has buffers. This is usually the end of its work.
    allocated: Level
    #: A part of the collection, while the rest continues.
    part: Level


#: A failed allocation is not logged again here. Its own entry, with the reason, was written before.
LOUDNESS: Final = {
    Cause.MISUSE: Loudness(Level.ERROR, Level.ERROR, Level.ERROR),
    # The entry about the user was written before, unless there were too many.
    Cause.LIMIT: Loudness(Level.DEBUG, Level.DEBUG, Level.DEBUG),
    Cause.CLOSED: Loudness(Level.ERROR, Level.INFO, Level.INFO),
    Cause.NO_CLIENTS: Loudness(Level.ERROR, Level.DEBUG, Level.DEBUG),
    Cause.NO_STRONG_NODES: Loudness(Level.ERROR, Level.DEBUG, Level.DEBUG),
    Cause.NO_STRONG_HANDLES: Loudness(Level.DEBUG, Level.DEBUG, Level.DEBUG),
    Cause.ALLOCATION: Loudness(Level.DEBUG, Level.DEBUG, Level.DEBUG),
    Cause.NOT_SELECTED: Loudness(Level.DEBUG, Level.DEBUG, Level.DEBUG),
    Cause.BROKEN: Loudness(Level.ERROR, Level.ERROR, Level.ERROR),
    Cause.SHUT_DOWN: Loudness(Level.DEBUG, Level.DEBUG, Level.DEBUG),
}


def stopping_point(node: NodeData) -> NodeData:
    """Return the node at which the failure of `node` stops. It fails with all its descendants."""
    while node.parent is not None:
        if STOPS_FAILURE[node.isolation, node.has_allocated]:
            break
        node = node.parent
    return node


def fail(node: NodeData, cause: Cause, reason: str = "") -> None:
    """Fail `node`, its ancestors as far as isolation allows, and all their descendants."""
    fail_subtree(stopping_point(node), cause, node, reason)


def fail_subtree(
    top: NodeData,
    cause: Cause,
    first: NodeData,
    reason: str = "",
    selected: NodeData | None = None,
) -> None:
    """Fail `top` and all its descendants, bottom up, but no ancestor. `first` is the node at which the failure began.

    `selected` is the node that a group selected instead.
    """
    collection = top.collection
    failure = Failure(cause, first.who(), reason, None if selected is None else selected.who())
    whole = top.parent is None
    unallocated, allocated, part = LOUDNESS[cause]
    level = (allocated if collection.is_allocated else unallocated) if whole else part
    if level is Level.DEBUG and collection.verbose:
        level = Level.INFO
    fields = {"reason": reason} if reason else {}
    with collection.changing():
        nodes = breadth_first(top, all_children)
        leaving = [node for node in giving_way(nodes, 64) if node.in_tree]
        collection.say(
            level,
            "collection failed" if whole else "nodes failed",
            first,
            cause=cause.value,
            up_to=who(top)["node"],
            nodes=len(leaving),
            **fields,
        )
        begin = [partial(collection.begin_failure, failure)] if whole else []
        try:
            every(chain(begin, _ends(leaving, failure), [collection.end] if whole else []))
        except Exception as error:
            collection.say(
                Level.ERROR,
                "an error occurred while nodes ended",
                reason=repr(error),
                exc_info=not isinstance(error, OSError),
            )


def _ends(leaving: list[NodeData], failure: Failure) -> Iterator[Callable[[], None]]:
    """Yield a function that ends each node, last one first. `leaving` loses each node, so each is freed separately."""
    while leaving:
        yield partial(_leave, leaving.pop(), failure)


def _leave(node: NodeData, failure: Failure) -> None:
    """Remove a node from the tree, after its descendants, and close what it owned."""
    was_connected = node.is_connected
    node.failure = failure
    step(node, Event.FAIL)
    if node.parent is not None:
        del node.parent.children[node]
    if node.has_allocated:
        node.collection.participants_changed()
    every((*([node.channel.close] if was_connected else ()), node.close, give_way))
