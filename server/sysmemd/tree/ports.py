"""The interfaces that the tree uses, and the exceptions for violations of the protocol.

The tree knows no sockets, descriptors or event loop. Its methods are called for clients' messages, and it acts through
these ports, which tests replace by recorders. A port must not call the tree before its own call has returned, except
for a `BufferMaker`, which may be done immediately.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sysmem_protocol.sysmem2 import SingleBufferSettings

from ..ports import Signal


class Misuse(Exception):
    """A client broke a rule of the protocol. Nothing was changed. The caller must call `node.fail(reason)`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotInCollection(Exception):
    """The given node belongs to another collection, or has left the tree."""


class Level(enum.Enum):
    """The level of a log entry."""

    __hash__ = object.__hash__  # the enum's own is a slow function in Python

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class NodeChannel(Protocol):
    """A node's server end, as the tree uses it.

    The tree calls `close()` exactly once on a channel, as its last call. The exception is a token's channel that `bind`
    has replaced: the tree does not use it any more, and the caller of `bind` closes it.
    """

    def allocated(self) -> None:
        """Respond to outstanding waits, because the node's `outcome` was just set."""
        ...

    def close(self) -> None:
        """End the channel, because the node has failed, or its client closed it after Release."""
        ...


class WhoHas(Protocol):
    """Finds the processes that have the client ends of nodes."""

    def __call__(self, nodes: Sequence[Any], then: Callable[[Mapping[int, str]], None], /) -> None:
        """Call `then`, now or later, with the processes found, by the nodes' numbers."""
        ...


class NoChannel:
    """The channel of a node that has left the tree."""

    def allocated(self) -> None:
        """See :class:`NodeChannel`."""

    def close(self) -> None:
        """See :class:`NodeChannel`."""


class Buffers(Protocol):
    """The allocated buffers of one collection."""

    def drop_strong(self) -> None:
        """Drop the server's own strong handle to every buffer. Idempotent."""
        ...

    def track_lifetime(self, event: Signal, buffers_remaining: int) -> None:
        """Close `event` when at most `buffers_remaining` buffers still exist. Takes ownership of it."""
        ...


class BufferMaker(Protocol):
    """The source of buffers."""

    def allocate(
        self,
        *,
        collection_id: int,
        name: str,
        settings: SingleBufferSettings,
        count: int,
        writable: bool,
        on_no_strong: Callable[[], None],
        is_wanted: Callable[[], bool],
        done: Callable[[Buffers | Exception], None],
    ) -> None:
        """Create `count` buffers, and call `done` with them, or with the reason why there are none.

        The reason is a :class:`.NoMemoryError`, or an internal error of the daemon. `done` is called before this
        returns, or later, from where the tree's methods are called. `is_wanted` is called meanwhile to find out whether
        to continue. `name` is empty if the collection has no name. `writable` is the mode of the buffers' open files in
        heaps in which all handles to a buffer are one open file. `on_no_strong` is called when the last strong handle
        to the last of the buffers is gone, later and never within this call.
        """
        ...
