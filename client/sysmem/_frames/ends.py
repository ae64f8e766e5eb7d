"""The sockets between producers and consumers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import Protocol

from sysmem_protocol.handles import BorrowedSocket, Handle, describe, is_seqpacket
from sysmem_protocol.owner import (
    CLOSED,
    Cell,
    Closes,
    HandleClosedError,
    Making,
    Owner,
    channel_of,
    channel_over,
    lost_by_forks,
)

from .._arguments import descriptor

_FORKED = (
    "belongs to the process that made it, of which this one is a fork: make it after the fork, "
    "of an end that pair() made before"
)


class EndOfStreamError(EOFError):
    """There are no more frames.

    Attributes:
        reason: Why, in words: what the producer said when it closed the stream, or what happened to it.
        closed: Whether the producer closed the stream. It is gone without that, or sent garbage, otherwise.
    """

    def __init__(self, reason: str, *, closed: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.closed = closed


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new connection between a producer and a consumer.

    Either may be passed to another process; what passes tokens (`socket.send_fds`, `Popen(pass_fds=…)`) passes
    them too. The caller owns both.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def own(end: socket.socket | Handle | int) -> Making:
    """Take over an end, which the caller doesn't own any more: its socket, which the receiver of this owns.

    Raises:
        ValueError: It isn't a connected SOCK_SEQPACKET Unix socket; the caller still owns it then.
        TypeError: It is another kind of object.
    """
    fd = end.fileno() if isinstance(end, socket.socket | Handle) else descriptor(end, socket.socket)
    if not is_seqpacket(fd) or not _connected(fd):
        raise ValueError(
            f"frames go through a connected SOCK_SEQPACKET Unix socket, as pair() makes; this is {describe(fd)}"
        )
    if isinstance(end, socket.socket):
        return channel_over(map(socket.SocketType.detach, (end,)))
    if isinstance(end, Handle):
        taken = channel_of(fd)
        end.close()
        return taken
    return channel_over((fd,))


def _connected(fd: int) -> bool:
    try:
        BorrowedSocket(fd).getpeername()
    except OSError:
        return False
    return True


class Waits(Closes, Protocol):
    """What waits until a descriptor is readable."""

    def wake(self) -> None: ...


class End(Owner):
    """One end of a stream, in either face."""

    _instead = "a producer makes one for each consumer"

    _waiter: Waits

    def __init__(self) -> None:
        #: Why this end can't be used.
        self._gone: str | None = CLOSED
        self._lock = threading.RLock()

    def _open(self, cell: Cell) -> None:
        """Wait on a descriptor from now on, which is closed with this end."""
        self._waiter = self._make_waiter(cell.fileno(), cell.close)
        self._gone = None
        lost_by_forks(self)

    def _make_waiter(self, fd: int, close: Callable[[], None]) -> Waits:
        """Return what waits until the descriptor is readable, and calls `close` in the end, maybe twice."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self._gone is not None

    def abandon(self) -> None:
        """Close without a word, as if the process had died. Idempotent."""
        if self._gone is None:
            self._gone = CLOSED
            self._waiter.close()

    def _lose(self, why: str = _FORKED) -> None:
        self._lock = threading.RLock()  # another thread of the parent may have held it
        if self._gone is None:
            self.abandon()
            self._gone = why

    def _check_open(self) -> None:
        if self._gone is not None:
            raise HandleClosedError(f"this end of a stream of frames {self._gone}")

    def _drop(self) -> None:
        if not self.closed:  # nor is everything here if __init__ didn't come so far
            self.abandon()
