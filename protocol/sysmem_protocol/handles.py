"""Descriptors with an owner, and pairs of connected ends.

A :class:`Handle` owns one descriptor. Ownership is passed on with :meth:`Handle.move` or :meth:`Handle.take`; otherwise
the handle must be closed. An open handle that is garbage-collected is closed with a warning. Code that receives
descriptors wraps them immediately, so that on every path, including exceptions, an owner closes them.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
import warnings
from collections.abc import Callable
from typing import Any, Self, TypeVar

from .owner import (
    CLOSED,
    FORKED,
    Cell,
    HandleClosedError,
    Number,
    Owner,
    close_cell,
    detach,
    never_wait,
    number,
    owned,
)

#: `struct flock`: type, whence, start, length, process; the 0q pads it as C does.
FLOCK = struct.Struct("hhqqi0q")
_INT = struct.Struct("i")
#: How much is dropped from a stream at a time.
_DROP_BYTES = 64 * 1024
_CHANNEL_TYPE = int(socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
#: More than the kernel's text about a socket.
_FDINFO_BYTES = 4096


H = TypeVar("H", bound="Handle")


class Handle(Owner):
    """The owner of one descriptor."""

    __slots__ = ("_cell", "_gone")

    def __init__(self, owned: int | Cell, close: Callable[[int], None] = os.close) -> None:
        """Take ownership of a descriptor, or of that in a cell. `close` is the function that closes a descriptor."""
        self._gone: str | None = None
        self._cell = Number(owned, close) if isinstance(owned, int) else owned

    def fileno(self) -> int:
        """Return the descriptor. This handle keeps ownership. Raises :class:`HandleClosedError` if it has none."""
        cell = self._cell
        if self._gone:
            fd = -1
        elif type(cell) is Number:
            fd = cell.fd
        else:
            try:
                fd = cell.fileno()
            except ValueError:
                fd = -1  # as `number` has it, without a call
        if fd < 0:
            raise HandleClosedError(f"this {type(self).__name__} {self._gone or CLOSED}")
        return fd

    @property
    def closed(self) -> bool:
        """Whether the descriptor is closed or given away."""
        return self._gone is not None or number(self._cell) < 0

    def take(self) -> int:
        """Give up ownership of the descriptor and return it."""
        self.fileno()
        fd = detach(self._cell)
        self._gone, self._cell = CLOSED, _EMPTY
        return fd

    def as_socket(self) -> socket.SocketType:
        """Return a socket object over the descriptor. This handle keeps ownership.

        Every call returns the same object, because each new one asks the kernel for an unneeded name. Raises `OSError`
        if the descriptor is not a socket, or was opened with O_PATH.
        """
        self.fileno()
        if isinstance(self._cell, socket.SocketType):
            return self._cell
        return self._with_socket().as_socket()

    def take_socket(self) -> socket.SocketType:
        """Give up ownership of the descriptor, and return a socket object that owns it.

        Raises `OSError` if it is not a socket. This handle then keeps ownership.
        """
        self.fileno()
        taken = (
            self._cell
            if isinstance(self._cell, socket.SocketType)
            else self._with_socket().take_socket()
        )
        self._gone, self._cell = CLOSED, _EMPTY
        return taken

    def _with_socket(self) -> Number:
        """Return the cell in a form that can lend its descriptor to a socket object."""
        if not isinstance(self._cell, Number):
            self._cell = Number(detach(self._cell))
        return self._cell

    def move(self, kind: type[H]) -> H:
        """Give the descriptor to a new owner of this class, and return that."""
        self.fileno()
        moved = kind(self._cell)
        self._gone, self._cell = CLOSED, _EMPTY
        return moved

    def duplicate(self) -> Self:
        """Return another handle to the same object, with its own descriptor.

        Raises `OSError` if the process has no descriptor left.
        """
        try:
            return type(self)(owned(fcntl.fcntl, self.fileno(), fcntl.F_DUPFD_CLOEXEC, 0))
        except OSError:
            self.fileno()  # a signal's handler, or another thread, may have closed it meanwhile
            raise

    def close(self) -> None:
        """Close the descriptor. Idempotent."""
        self._gone = self._gone or CLOSED
        cell = self._cell
        if cell is not _EMPTY:
            close_cell(cell)
            self._cell = _EMPTY

    def __del__(self, _warn: Any = warnings.warn) -> None:
        # Most handles are closed by then, and the complete check would cost more than closing.
        if getattr(self, "_cell", _EMPTY) is not _EMPTY:
            super().__del__(_warn)

    def _lose(self, why: str = FORKED) -> None:
        self._gone = self._gone or why
        self._cell.close()


_EMPTY = Number(-1)


class BorrowedSocket(socket.SocketType):
    """A socket object over a descriptor that another object owns. The descriptor is not closed with this object.

    This holds even if an exception occurs right after its creation, because `detach` is written in C.
    """

    __slots__ = ()

    def __init__(self, fd: int) -> None:
        """Raises `OSError` if the descriptor is not a socket."""
        super().__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
        never_wait(self)

    __del__ = socket.SocketType.detach


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a new channel. They are non-blocking and close-on-exec."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)


def channel_ends() -> tuple[Handle, Handle]:
    """Return both ends of a new channel, as :func:`channel_pair` does, with fewer system calls."""
    near, far = _socket.socketpair(socket.AF_UNIX, _CHANNEL_TYPE)
    return Handle(near), Handle(far)


def eventpair() -> tuple[Handle, Handle]:
    """Return both ends of a new eventpair. An end is signalled when every descriptor of the other end is closed."""
    near, far = _socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Handle(near), Handle(far)


def duplicate(fd: int) -> int:
    """Return another descriptor of the same object. Raises `OSError` if the process has no descriptor left."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)


def stop_receiving(fd: int) -> None:
    """Shut down receiving at one end of a socket pair. Raises nothing.

    The other end only notices that it can no longer send.
    """
    with contextlib.suppress(OSError):
        BorrowedSocket(fd).shutdown(socket.SHUT_RD)


def shut_down(fd: int) -> None:
    """Shut down both directions of one end of a socket pair, so that the other end sees it closed. Raises nothing."""
    with contextlib.suppress(OSError):
        BorrowedSocket(fd).shutdown(socket.SHUT_RDWR)


def open_fdinfo(fd: int) -> int:
    """Open what the kernel says about a descriptor; see :func:`descriptors_waiting`. Raises `OSError`."""
    return os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)


def descriptors_waiting(fd: int, fdinfo: int | None = None) -> int:
    """Return the number of descriptors queued at one end of a socket pair.

    With `fdinfo`, which :func:`open_fdinfo` has returned for the end, no descriptor is opened.

    They stay open as long as the end does, and one of them may even keep it open: its other end. Peeking at the queue
    would not be reliable, because every owner of the end, past or present, can change what peeking shows (SO_PEEK_OFF,
    MSG_OOB).

    Raises `OSError` if the number cannot be determined: this process has no descriptor left, or there are locks on the
    end, all of which the kernel would list first.
    """
    try:
        hidden = holds_lock(fd)
    except OSError:
        hidden = False  # the kernel is older than 6.6, and cannot tell
    if not hidden:
        opened = open_fdinfo(fd) if fdinfo is None else fdinfo
        try:
            _, found, number = os.pread(opened, _FDINFO_BYTES, 0).partition(b"\nscm_fds:")
        finally:
            if fdinfo is None:
                os.close(opened)
        if found:
            return int(number.split()[0])
    raise OSError(errno.EIO, "the kernel does not report the number of queued descriptors")


def unread_of(fd: int) -> int:
    """Return how much of the data sent by one end of a socket pair is unread; 0 means none. Raises `OSError`.

    Empty datagrams count too, and so does a datagram that is being received right now.
    """
    waiting: int = _INT.unpack(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(_INT.size)))[0]
    return waiting


def drop_unread(fd: int, fdinfo: int | None = None) -> None:
    """Drop what is queued at an end that has stopped receiving, up to the last descriptor in it.

    With `fdinfo`, as for :func:`descriptors_waiting`, no descriptor is opened. Raises `OSError` if dropping is not
    possible.
    """
    sock = BorrowedSocket(fd)
    is_stream = sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) == socket.SOCK_STREAM
    # The unread rest of a datagram is dropped. In both cases there is no room for descriptors, so they are closed.
    size = _DROP_BYTES if is_stream else 1
    while descriptors_waiting(fd, fdinfo):
        if is_stream:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        try:
            dropped = sock.recv(size, socket.MSG_DONTWAIT)
        except ConnectionResetError:
            continue  # reported once; what was sent is still queued
        if is_stream and not dropped:
            raise OSError(errno.EIO, "descriptors that cannot be received")


def holds_lock(fd: int, start: int = 0, length: int = 0) -> bool:
    """Return whether an open file description holds a lock in a range of `length` bytes; 0 means up to the end.

    Raises `OSError`: EINVAL on kernels before 6.6, EBADF for a descriptor that was opened with O_PATH.
    """
    # A query for F_UNLCK finds the description's own locks.
    query = FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, length, 0)
    kind: int = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query))[0]
    return kind != fcntl.F_UNLCK
