"""What the tree asks of the world, and how it says that a client broke a rule.

The tree knows no sockets, descriptors or event loop. It is called with what clients said and answers through these
ports, which tests replace with recorders. No port may call back into the tree before its call has returned, but for
a `BufferMaker`, which may be done at once.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from sysmem_protocol.sysmem2 import SingleBufferSettings

from ..ports import Signal


class Misuse(Exception):
    """A client broke a rule of the protocol; nothing was changed. The caller answers with `node.fail(reason)`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class NotInCollection(Exception):
    """The node asked about belongs to another collection, or has left the tree."""


class Level(enum.Enum):
    """How loudly something is said."""

    __hash__ = object.__hash__  # of an enum it is a function in Python

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class NodeChannel(Protocol):
    """A node's server end, as the tree uses it.

    A channel given to the tree gets exactly one `close()`, as its last call, except a token's that `bind` replaced:
    that one gets no call any more and its giver closes it.
    """

    def allocated(self) -> None:
        """The node's `outcome` was just set: pending waits can be answered."""
        ...

    def close(self) -> None:
        """The node has failed, or its client closed it after Release: the channel ends."""
        ...


class WhoHas(Protocol):
    """Finds the processes that have the client ends of nodes now."""

    def __call__(self, nodes: Sequence[Any], then: Callable[[Mapping[int, str]], None], /) -> None:
        """Call `then`, now or later, with what is found, by the nodes' numbers."""
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
        """Give up the server's own strong hold on every buffer. Doing so again is harmless."""
        ...

    def track_lifetime(self, event: Signal, buffers_remaining: int) -> None:
        """Close `event` (owned from now on) as soon as at most `buffers_remaining` buffers still exist."""
        ...


class BufferMaker(Protocol):
    """Where buffers come from."""

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
        """Make `count` buffers, and call `done` with them, or with the reason why there are none.

        The reason is a :class:`.NoMemoryError`, or an error of the daemon's own. `done` is called before this returns,
        or later, from where the tree is called; `is_wanted` is asked on the way whether it is worth going on. `name`
        is empty when nobody named the collection. Of heaps whose buffers have one open file for all handles, `writable`
        is what it allows. `on_no_strong` is called, later and never from within this call,
        when the last strong handle to the last of the buffers is gone.
        """
        ...
