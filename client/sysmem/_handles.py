"""What a participant holds descriptors in, apart from channels: proofs of nodes, and events."""

from __future__ import annotations

import contextlib
import select
import socket
from abc import ABC, abstractmethod
from typing import Any, Self

from sysmem_protocol.handles import Handle, describe, is_socketpair_end
from sysmem_protocol.owner import CLOSED, FORKED, Cell, close_cell, lost_by_forks, own

from ._arguments import descriptor


class Held(Handle):
    """A handle of a program, which signals interrupt: its cell is an object written in C."""

    __slots__ = ()

    def __init__(self, owned: int | Cell) -> None:
        """Become the owner of a descriptor, or of what is in a cell."""
        super().__init__(own(owned) if isinstance(owned, int) else owned)


class Arrived(Held):
    """A descriptor that has just come; what it is, the message that it came with says."""

    __slots__ = ()

    def __init__(self, owned: int | Cell) -> None:
        super().__init__(owned)
        lost_by_forks(self)


class NodeRef(Held):
    """Proof of a node, for `is_alternate_for` on another one; an event that no other process can forge."""

    __slots__ = ()


class EventPair(Held, ABC):
    """One end of an eventpair, which the daemon closes its end of when something has happened.

    Each face has its own kind, which differs in how it waits: :class:`sysmem.AsyncEventPair` and
    :class:`sysmem.blocking.EventPair`. Both are this class to `isinstance`.

    An event belongs to the process that made it: in a forked child it is closed. See :meth:`detach`.
    """

    __slots__ = ("_watches",)
    _instead = "detach() and from_fd() give it to another process, duplicate() makes another one"

    def __init__(self, owned: int | Cell) -> None:
        """Become the owner of a descriptor, or of what is in a cell."""
        #: For each of those who wait what they wait on. The descriptor isn't closed before all are gone.
        self._watches: dict[object, select.epoll] = {}
        super().__init__(owned)
        lost_by_forks(self)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Become the owner of an event's descriptor that came from another process, say.

        Raises `TypeError` for what is no descriptor's number, and `ValueError` for a descriptor that can't be an event.
        The descriptor is left alone then.
        """
        number = descriptor(fd)
        if not is_socketpair_end(number, *_EVENT_TYPES):
            raise ValueError(f"descriptor {number} is {describe(number)}, not an eventpair")
        return cls(number)

    def is_closed(self) -> bool:
        """Whether the other end is closed, without waiting."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLRDHUP)
        return bool(poll.poll(0))

    @abstractmethod
    def wait_closed(self, timeout: float | None = None) -> Any:
        """Wait until the other end is closed, `timeout` seconds at most: True, or False when the time is over.

        Raises `HandleClosedError` when this end is closed, also by somebody else meanwhile. Awaited in the async face.
        """

    def _watch(self, waiter: object) -> select.epoll:
        """What tells a waiter that the other end is closed, or this one."""
        watch = self._watches[waiter] = select.epoll()
        watch.register(self.fileno(), select.EPOLLRDHUP)
        self.fileno()  # a close() from here on sees the watch
        return watch

    def take(self) -> int:
        """Give the descriptor away. Raises `RuntimeError` while somebody waits on this event."""
        self._check_unused()
        return super().take()

    def _check_unused(self) -> None:
        if self._watches:
            raise RuntimeError("somebody waits on this eventpair; it can't be given away")

    def detach(self) -> int:
        """Give the descriptor away, to pass it to another process: the caller owns it, this object is closed.

        Raises `RuntimeError` while somebody waits on this event.
        """
        return self.take()

    def close(self) -> None:
        """Close this end; those who wait on it get a HandleClosedError. Idempotent.

        It takes no lock and never waits, so a signal's handler may call it too.
        """
        self._gone = self._gone or CLOSED
        for watch in tuple(self._watches.values()):
            with contextlib.suppress(OSError, ValueError):
                watch.modify(
                    self._cell.fileno(), select.EPOLLOUT
                )  # which it is ready for: that wakes the waiter
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        """Close the descriptor if this end is closed and nobody waits on it any more."""
        if self._gone and not self._watches:
            close_cell(self._cell)

    def _lose(self, why: str = FORKED) -> None:
        self._gone = self._gone or why
        for watch in self._watches.values():
            watch.close()  # the parent watches the same events with it
        self._watches.clear()
        self._cell.close()


_EVENT_TYPES = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
