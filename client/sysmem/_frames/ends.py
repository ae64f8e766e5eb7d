"""The sockets between producers and consumers."""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable
from functools import partial
from typing import Protocol

from sysmem_protocol.handles import BorrowedSocket, Handle
from sysmem_protocol.kinds import describe, is_seqpacket
from sysmem_protocol.owner import (
    CLOSED,
    Cell,
    Closes,
    HandleClosedError,
    Making,
    Owner,
    channel_of,
    channel_over,
    close_cell,
    closed_by_program,
    lost_by_forks,
)

from .._arguments import descriptor
from .messages import RECEIVE_BYTES

_FORKED = (
    "belongs to the process that made it, of which this one is a fork: make it after the fork, "
    "of an end that pair() made before"
)


class EndOfStreamError(EOFError):
    """There are no more frames.

    Attributes:
        reason: The reason that the producer gave when it closed the stream, or what happened to the producer.
        closed: Whether the producer closed the stream. False means that it died, failed or sent garbage.
    """

    def __init__(self, reason: str, *, closed: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.closed = closed


def pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new connection between a producer and a consumer.

    Either end may be passed to another process, in the same ways as a token (`socket.send_fds`, `Popen(pass_fds=…)`).
    The caller owns both.
    """
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def received(sock: socket.SocketType) -> bytes | None:
    """Return the next message, empty bytes if the other end is gone, or None if there is no message yet.

    Raises `HandleClosedError` if the program has closed the descriptor by its number.
    """
    while True:
        try:
            return sock.recv(RECEIVE_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            continue  # the kernel reports this once if the other end left and had not read everything
        except OSError as error:
            if error.errno in (errno.EBADF, errno.ENOTSOCK):
                raise closed_by_program(sock.fileno(), "this end of a stream of frames") from error
            raise


def own(end: socket.socket | Handle | int) -> Making:
    """Take an end over from the caller, and return its socket, which the caller of this function owns.

    Raises:
        ValueError: It isn't a connected SOCK_SEQPACKET Unix socket. The caller still owns the end then.
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
    """An object that waits until a descriptor is readable."""

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
        """Begin to wait for a descriptor. Closing this end closes it."""
        self._waiter = self._make_waiter(cell.fileno(), partial(close_cell, cell))
        self._gone = None
        lost_by_forks(self)

    def _make_waiter(self, fd: int, close: Callable[[], None]) -> Waits:
        """Return an object that waits until the descriptor is readable. Its `close()` calls `close`, maybe twice."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self._gone is not None

    def abandon(self) -> None:
        """Close without sending a reason, as if the process had died. Idempotent."""
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
        # If __init__ raised early, attributes are missing, and there is nothing to close.
        if not self.closed:
            self.abandon()
