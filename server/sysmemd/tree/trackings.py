"""The eventpairs that the daemon closes for one node (AttachNodeTracking, AttachLifetimeTracking)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Final, TypeVar

from ..ends import every
from ..pause import give_way
from ..ports import Signal
from .ports import Buffers, Misuse

T = TypeVar("T")

#: The maximum number of eventpairs that AttachNodeTracking may attach to one node.
MAX_NODE_TRACKINGS: Final = 256


@contextmanager
def closed_if_refused(event: Signal) -> Iterator[None]:
    """Take ownership of an event in the block, and close it if the block raises."""
    try:
        yield
    except Misuse:
        event.close()
        raise


class Trackings:
    """Own the events of one node until they close or, for lifetime trackings, go to the buffers."""

    __slots__ = ("_count", "_lifetimes", "_node")

    def __init__(self) -> None:
        #: The number of node trackings so far, including those whose client is gone.
        self._count = 0
        self._node: dict[int, Signal] = {}
        self._lifetimes: dict[int, tuple[Signal, int]] = {}

    def add(self, event: Signal) -> None:
        """Close `event` when the node leaves the tree. Raises `Misuse` if there are too many."""
        if self._count >= MAX_NODE_TRACKINGS:
            raise Misuse(f"more than {MAX_NODE_TRACKINGS} AttachNodeTracking on one node")
        self._count += 1
        key = id(event)
        self._node[key] = event
        event.when_gone(partial(self._node.pop, key))

    def add_lifetime(self, event: Signal, buffers_remaining: int) -> None:
        """Keep `event` until the node has allocated; close it if the node leaves before."""
        key = id(event)
        self._lifetimes[key] = event, buffers_remaining
        event.when_gone(partial(self._lifetimes.pop, key))

    def hand_over(self, buffers: Buffers) -> None:
        """Pass the lifetime trackings to the buffers, because the node has allocated."""
        every(
            step
            for tracking in _taken(self._lifetimes)
            for step in (partial(buffers.track_lifetime, *tracking), give_way)
        )

    def close(self) -> None:
        """Close all events, because the node has left the tree."""
        if not self._node and not self._lifetimes:
            return  # as of most nodes
        events = chain(_taken(self._node), (event for event, _ in _taken(self._lifetimes)))
        every(step for event in events for step in (event.close, give_way))


def _taken(kept: dict[int, T]) -> Iterator[T]:
    """Take out what is kept, one after the other. Some may go while others are served, because their client does."""
    for key in tuple(kept):
        if key in kept:
            yield kept.pop(key)
