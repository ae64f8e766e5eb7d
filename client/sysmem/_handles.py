"""Owners of descriptors other than channels: node refs and eventpairs."""

from __future__ import annotations

import contextlib
import select
import socket
from abc import ABC, abstractmethod
from typing import Any, Self

from sysmem_protocol.handles import Handle
from sysmem_protocol.kinds import describe, is_socketpair_end
from sysmem_protocol.owner import (
    CLOSED,
    FORKED,
    Cell,
    close_cell,
    closed_by_program,
    lost_by_forks,
    own,
)

from ._arguments import descriptor
from ._process import reserve_standard_descriptors


class Held(Handle):
    """A handle of a program. Its cell is an object written in C, so that a signal cannot interrupt its operations."""

    __slots__ = ()

    def __init__(self, owned: int | Cell) -> None:
        """Take ownership of a descriptor, or of that in a cell."""
        super().__init__(own(owned) if isinstance(owned, int) else owned)


class Arrived(Held):
    """A descriptor that was just received. Its message determines its kind."""

    __slots__ = ()

    def __init__(self, owned: int | Cell) -> None:
        super().__init__(owned)
        lost_by_forks(self)


class NodeRef(Held):
    """A proof of a node's identity, for `is_alternate_for` on another node. No other process can forge it."""

    __slots__ = ()


class EventPair(Held, ABC):
    """One end of an eventpair. The daemon closes the other end when the event has happened.

    Each face has a class of its own, which differs in how it waits: :class:`sysmem.AsyncEventPair` and
    :class:`sysmem.blocking.EventPair`. Both are subclasses of this one.

    An event belongs to the process that created it: in a forked child it is closed. See :meth:`detach`.
    """

    __slots__ = ("_watches",)
    _instead = "detach() and from_fd() give it to another process, duplicate() makes another one"

    def __init__(self, owned: int | Cell) -> None:
        """Take ownership of a descriptor, or of that in a cell."""
        #: The epoll of each waiter. The descriptor is not closed before all waiters have left.
        self._watches: dict[object, select.epoll] = {}
        super().__init__(owned)
        lost_by_forks(self)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Return an event that owns a descriptor, for example one that came from another process.

        Args:
            fd: The descriptor. The event owns it from now on, unless this raises.

        Raises:
            TypeError: `fd` is not a number.
            ValueError: The descriptor can't be an event.
        """
        number = descriptor(fd)
        if not is_socketpair_end(number, *_EVENT_TYPES):
            raise ValueError(f"descriptor {number} is {describe(number)}, not an eventpair")
        return cls(number)

    def is_closed(self) -> bool:
        """Return whether the other end is closed, without waiting."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLRDHUP)
        ready = poll.poll(0)
        if ready and ready[0][1] & select.POLLNVAL:
            raise closed_by_program(self.fileno(), f"this {type(self).__name__}")
        return bool(ready)

    @abstractmethod
    def wait_closed(self, timeout: float | None = None) -> Any:
        """Wait until the other end is closed. Return True, or False if `timeout` seconds have passed.

        It is awaited in the async face.

        Raises:
            HandleClosedError: This end is closed, or is closed by another caller meanwhile.
        """

    def _watch(self, waiter: object) -> select.epoll:
        """Return an epoll that becomes readable when the other end or this one is closed."""
        watch = self._watches[waiter] = select.epoll()
        watch.register(self.fileno(), select.EPOLLRDHUP)
        self.fileno()  # a close() after this point sees the epoll
        return watch

    def _leave(self, waiter: object) -> None:
        """Close what a waiter has waited on, and the descriptor if that was left to the last waiter."""
        watch = self._watches.pop(waiter, None)
        if watch is not None:
            watch.close()  # the traceback of a cancellation may refer to it for long
        self._close_if_unused()

    def take(self) -> int:
        """Return the descriptor and give up ownership. Raises `RuntimeError` while a thread or task waits on it."""
        self._check_unused()
        return super().take()

    def _check_unused(self) -> None:
        if self._watches:
            raise RuntimeError(
                "another thread or task waits on this eventpair; it can't be given away"
            )

    def detach(self) -> int:
        """Return the descriptor and give up ownership, to pass it to another process. This object is closed.

        Raises:
            RuntimeError: Another thread or task waits on this event.
        """
        return self.take()

    def close(self) -> None:
        """Close this end. Calls that wait on it raise `HandleClosedError`. Idempotent.

        It takes no lock and never waits, so a signal handler may call it.
        """
        self._gone = self._gone or CLOSED
        for watch in tuple(self._watches.values()):
            with contextlib.suppress(OSError, ValueError):
                watch.modify(
                    self._cell.fileno(), select.EPOLLOUT
                )  # it is always writable, so this wakes the waiter
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        """Close the descriptor if this end is closed and no thread or task waits on it."""
        if self._gone and not self._watches:
            close_cell(self._cell)

    def _lose(self, why: str = FORKED) -> None:
        self._gone = self._gone or why
        for watch in self._watches.values():
            watch.close()  # a forked child shares the parent's epoll, so it must not change it
        self._watches.clear()
        self._cell.close()


with contextlib.suppress(OSError):  # of programs that connect to no daemon
    reserve_standard_descriptors()
_EVENT_TYPES = (socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
