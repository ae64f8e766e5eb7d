"""The eventpairs that one node was given to close (AttachNodeTracking, AttachLifetimeTracking)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ..ports import Closeable
from .ports import Buffers, Misuse

#: Eventpairs that one node may have attached by AttachNodeTracking; more is a client gone wild.
MAX_NODE_TRACKINGS: Final = 256


@contextmanager
def closed_if_refused(event: Closeable) -> Iterator[None]:
    """An event is owned from the moment it is handed over: a message that is refused closes it."""
    try:
        yield
    except Misuse:
        event.close()
        raise


class Trackings:
    """Owns the events of one node until they are closed or, those of lifetimes, handed to the buffers."""

    __slots__ = ("_lifetimes", "_node")

    def __init__(self) -> None:
        self._node: list[Closeable] = []
        self._lifetimes: list[tuple[Closeable, int]] = []

    def add(self, event: Closeable) -> None:
        """Close `event` when the node leaves the tree. Raises `Misuse` when there are too many."""
        if len(self._node) >= MAX_NODE_TRACKINGS:
            raise Misuse(f"more than {MAX_NODE_TRACKINGS} AttachNodeTracking on one node")
        self._node.append(event)

    def add_lifetime(self, event: Closeable, buffers_remaining: int) -> None:
        """Keep `event` until the node has allocated; close it if the node leaves before."""
        self._lifetimes.append((event, buffers_remaining))

    def hand_over(self, buffers: Buffers) -> None:
        """The node has allocated: the buffers know from now on how many of them are left."""
        lifetimes, self._lifetimes = self._lifetimes, []
        for event, buffers_remaining in lifetimes:
            buffers.track_lifetime(event, buffers_remaining)

    def close(self) -> None:
        """The node has left the tree."""
        for event in (*self._node, *(event for event, _ in self._lifetimes)):
            event.close()
        self._node.clear()
        self._lifetimes.clear()
