"""Descriptors with an owner, and what kind of object a descriptor is.

A :class:`Handle` owns one descriptor. It is given on with :meth:`Handle.move` or :meth:`Handle.take`, and closed
otherwise; dropping one that is still open closes it and warns. Everything that receives descriptors wraps them at once,
so that every path, an exception's included, has an owner that closes them.
"""

from __future__ import annotations

import _socket
import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct
import termios
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple, Self, TypeVar

from .library import HandleKind
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
#: What is dropped of a stream at a time.
_DROP_BYTES = 64 * 1024
_CHANNEL_TYPE = int(socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
#: More than the kernel has to say of a socket.
_FDINFO_BYTES = 4096


H = TypeVar("H", bound="Handle")


class Handle(Owner):
    """The owner of one descriptor."""

    __slots__ = ("_cell", "_gone")

    def __init__(self, owned: int | Cell, close: Callable[[int], None] = os.close) -> None:
        """Become the owner of a descriptor, or of what is in a cell; `close` closes a descriptor."""
        self._gone: str | None = None
        self._cell = Number(owned, close) if isinstance(owned, int) else owned

    def fileno(self) -> int:
        """Return the descriptor, still owned by this handle. Raises :class:`HandleClosedError` if there is none."""
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
        """Give the descriptor away: the caller owns it afterwards."""
        self.fileno()
        fd = detach(self._cell)
        self._gone, self._cell = CLOSED, _EMPTY
        return fd

    def as_socket(self) -> socket.SocketType:
        """Return a socket object over the descriptor, which belongs to this handle.

        There is one, because each new one asks the kernel for a name that nobody wants to know. Raises `OSError` if the
        descriptor is no socket, or was opened with O_PATH.
        """
        self.fileno()
        if isinstance(self._cell, socket.SocketType):
            return self._cell
        return self._with_socket().as_socket()

    def take_socket(self) -> socket.SocketType:
        """Give the descriptor away, in a socket object that owns it afterwards.

        Raises `OSError`, with nothing given away, if it is no socket.
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
        """Return the cell, as one that lends its descriptor to a socket object."""
        if not isinstance(self._cell, Number):
            self._cell = Number(detach(self._cell))
        return self._cell

    def move(self, kind: type[H]) -> H:
        """Give the descriptor to a new owner, of this kind."""
        self.fileno()
        moved = kind(self._cell)
        self._gone, self._cell = CLOSED, _EMPTY
        return moved

    def duplicate(self) -> Self:
        """Another handle to the same object, with its own descriptor.

        Raises `OSError` when the process has no descriptor left.
        """
        return type(self)(owned(fcntl.fcntl, self.fileno(), fcntl.F_DUPFD_CLOEXEC, 0))

    def close(self) -> None:
        """Close the descriptor; nothing happens when that was done before."""
        self._gone = self._gone or CLOSED
        cell = self._cell
        if cell is not _EMPTY:
            close_cell(cell)
            self._cell = _EMPTY

    def __del__(self, _warn: Any = warnings.warn) -> None:
        # Most are closed by then; the long way costs more than closing.
        if getattr(self, "_cell", _EMPTY) is not _EMPTY:
            super().__del__(_warn)

    def _lose(self, why: str = FORKED) -> None:
        self._gone = self._gone or why
        self._cell.close()


_EMPTY = Number(-1)


class BorrowedSocket(socket.SocketType):
    """A socket object over a descriptor that somebody else owns, and that isn't closed with this object.

    Not even if an exception comes just when it is made: `detach` is written in C.
    """

    __slots__ = ()

    def __init__(self, fd: int) -> None:
        """Raises `OSError` for what is no socket."""
        super().__init__(socket.AF_UNIX, socket.SOCK_SEQPACKET, 0, fd)
        never_wait(self)

    __del__ = socket.SocketType.detach


def channel_pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a new channel, neither blocking nor inherited by programs that are started."""
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)


def channel_ends() -> tuple[Handle, Handle]:
    """Both ends of a new channel, as :func:`channel_pair` makes them, with less to ask the kernel."""
    near, far = _socket.socketpair(socket.AF_UNIX, _CHANNEL_TYPE)
    return Handle(near), Handle(far)


def eventpair() -> tuple[Handle, Handle]:
    """Both ends of a new eventpair: an end is signalled when every descriptor of the other one is closed."""
    near, far = _socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Handle(near), Handle(far)


def duplicate(fd: int) -> int:
    """Another descriptor of the same object. Raises `OSError` when the process has none left."""
    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 0)


def stop_receiving(fd: int) -> None:
    """Let nothing more come to one end of a socket pair. Raises nothing.

    The other end notices nothing but that it can't send.
    """
    with contextlib.suppress(OSError):
        BorrowedSocket(fd).shutdown(socket.SHUT_RD)


def shut_down(fd: int) -> None:
    """Let the other end of a socket pair see this one closed. Raises nothing."""
    with contextlib.suppress(OSError):
        BorrowedSocket(fd).shutdown(socket.SHUT_RDWR)


def descriptors_waiting(fd: int) -> int:
    """How many descriptors wait to be received at one end of a socket pair.

    They stay open as long as the end does, and among them may be what keeps it open: its other end. A look at the queue
    wouldn't do, for whoever had the end before, or still has it, decides what a look shows (SO_PEEK_OFF, MSG_OOB).

    Raises `OSError` when that can't be told: this process has no descriptor left, or somebody has put locks on the end,
    all of which the kernel would write out first.
    """
    try:
        hidden = holds_lock(fd)
    except OSError:
        hidden = False  # nor can it be told whether it is: the kernel is older than 6.6
    if not hidden:
        fdinfo = os.open(f"/proc/self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _, found, number = os.read(fdinfo, _FDINFO_BYTES).partition(b"\nscm_fds:")
        finally:
            os.close(fdinfo)
        if found:
            return int(number.split()[0])
    raise OSError(errno.EIO, "the kernel doesn't tell how many descriptors wait")


def unread_of(fd: int) -> int:
    """Return how much of what one end of a socket pair has sent was not received yet, 0 for nothing. Raises `OSError`.

    Empty datagrams count too, and so does whatever is being received right now.
    """
    waiting: int = _INT.unpack(fcntl.ioctl(fd, termios.TIOCOUTQ, bytes(_INT.size)))[0]
    return waiting


def drop_unread(fd: int) -> None:
    """Drop what waits at an end that has stopped receiving, up to the last descriptor in it.

    Raises `OSError` when that can't be done.
    """
    sock = BorrowedSocket(fd)
    _, kind = _family_and_type(sock)
    is_stream = kind == socket.SOCK_STREAM
    # Of a datagram all goes that isn't read. In both there is no room for descriptors.
    size = _DROP_BYTES if is_stream else 1
    while descriptors_waiting(fd):
        if is_stream:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        try:
            dropped = sock.recv(size, socket.MSG_DONTWAIT)
        except ConnectionResetError:
            continue  # said once; what was sent is still there
        if is_stream and not dropped:
            raise OSError(errno.EIO, "descriptors that can't be received")


def holds_lock(fd: int, start: int = 0, length: int = 0) -> bool:
    """Return whether an open file description holds a lock on one of `length` bytes, or to the end where that is 0.

    Raises `OSError`: EINVAL on kernels before 6.6, EBADF for a descriptor opened with O_PATH.
    """
    # Asking for F_UNLCK asks for the description's own locks.
    query = FLOCK.pack(fcntl.F_UNLCK, os.SEEK_SET, start, length, 0)
    kind: int = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query))[0]
    return kind != fcntl.F_UNLCK


# --- what it is -----------------------------------------------------------------------------------------------------


class Status(NamedTuple):
    """What a descriptor refers to: type and permissions, device, inode."""

    mode: int
    device: int
    inode: int


def status(fd: int) -> Status:
    """What a descriptor refers to, as far as is known without asking anybody: a file system may never answer.

    A mode of 0 where not even that much is known. Raises `OSError` for no open descriptor, and when memory is short.
    """
    if _statx is None:
        found = os.fstat(fd)
        return Status(found.st_mode, found.st_dev, found.st_ino)
    buffer = ctypes.create_string_buffer(_STATX.size)
    if _statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, _STATX_TYPE | _STATX_INO, buffer):
        number = ctypes.get_errno()
        if number in (errno.EBADF, errno.ENOMEM):
            raise OSError(number, os.strerror(number))
        return Status(0, 0, 0)
    mode, inode, major, minor = _STATX.unpack(buffer)
    return Status(mode, os.makedev(major, minor), inode)


# From linux/stat.h and fcntl.h. Of `struct statx`: mode, inode, major and minor number of the device.
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_STATX_TYPE = 0x0001
_STATX_INO = 0x0100
_STATX = struct.Struct("=28xH2xQ96x2I112x")
#: None where the C library doesn't know it.
_statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)


# --- kinds --------------------------------------------------------------------------------------------------------


def describe(fd: int) -> str:
    """What a descriptor is, in words for an error message."""
    if _only_a_path(fd):
        return "a descriptor opened with O_PATH"
    mode = status(fd).mode
    if stat.S_ISSOCK(mode):
        return _describe_socket(BorrowedSocket(fd))
    for test, name in (
        (stat.S_ISREG, "a regular file or memfd"),
        (stat.S_ISDIR, "a directory"),
        (stat.S_ISFIFO, "a pipe"),
        (stat.S_ISCHR, "a character device"),
        (stat.S_ISBLK, "a block device"),
    ):
        if test(mode):
            return name
    return os.readlink(f"/proc/self/fd/{fd}")  # anon_inode:[eventfd], say


def is_socketpair_end(fd: int, *types: int) -> bool:
    """Return whether a descriptor is one end of a connected pair of nameless Unix sockets of one of the `types`."""
    try:
        sock = BorrowedSocket(fd)
        return _is_nameless_end(sock, types) and sock.getsockname() == ""
    except OSError:
        return False


def is_nameless_end(handle: Handle, *types: int) -> bool:
    """Return whether a handle is one end of a connected Unix socket pair of one of the `types`, the other end nameless.

    Whether the end itself has a name is not asked.
    """
    try:
        return _is_nameless_end(handle.as_socket(), types)
    except OSError:
        return False


def _is_nameless_end(sock: socket.SocketType, types: tuple[int, ...]) -> bool:
    # Only a Unix socket's address is a text.
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) in types and sock.getpeername() == ""


def is_seqpacket(fd: int) -> bool:
    """Return whether a descriptor is a SOCK_SEQPACKET Unix socket, whatever its state."""
    if not _is_socket(fd):
        return False
    return _family_and_type(BorrowedSocket(fd)) == (socket.AF_UNIX, socket.SOCK_SEQPACKET)


def is_unix_socket(fd: int) -> bool:
    """Return whether a descriptor is an AF_UNIX socket of any type, whatever its state."""
    if not _is_socket(fd):
        return False
    return _family_and_type(BorrowedSocket(fd))[0] == socket.AF_UNIX


def is_vmo(fd: int) -> bool:
    """Whether a descriptor is a memfd, a regular file or a dma-buf, opened so that something can be done with it."""
    mode = status(fd).mode
    return (stat.S_ISREG(mode) or (not stat.S_IFMT(mode) and is_dma_buf(fd))) and not _only_a_path(
        fd
    )


def is_dma_buf(fd: int) -> bool:
    """Return whether a descriptor is a dma-buf."""
    return os.readlink(f"/proc/self/fd/{fd}").startswith("/dmabuf:")


def is_kind(fd: int, kind: HandleKind) -> bool:
    """Return whether a descriptor can be what a field asks for, as far as the kernel can tell.

    A client end is judged by its type alone: which of them are tokens is the server's knowledge. What an event is, the
    server decides too, by the objects it makes node_refs from.
    """
    match kind:
        case HandleKind.CLIENT_END:
            return is_seqpacket(fd)
        case HandleKind.SERVER_END:
            return is_socketpair_end(fd, socket.SOCK_SEQPACKET)
        case HandleKind.EVENTPAIR:
            return is_socketpair_end(fd, socket.SOCK_STREAM, socket.SOCK_SEQPACKET)
        case HandleKind.VMO:
            return is_vmo(fd)
        case HandleKind.EVENT:
            return True


def _only_a_path(fd: int) -> bool:
    """Whether a descriptor was opened with O_PATH: it shows the type of what it names, but can't be used as that."""
    return bool(fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_PATH)


def _is_socket(fd: int) -> bool:
    return stat.S_ISSOCK(status(fd).mode) and not _only_a_path(fd)


def _family_and_type(sock: socket.SocketType) -> tuple[int, int]:
    return (
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN),
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE),
    )


def _describe_socket(sock: socket.SocketType) -> str:
    family, kind = _family_and_type(sock)
    # Not every number that the kernel knows has a name in Python.
    names = {int(name): name.name for name in socket.AddressFamily}
    types = {int(name): name.name for name in socket.SocketKind}
    what = f"{names.get(family, f'family {family}')} {types.get(kind, f'type {kind}')} socket"
    if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return f"a listening {what}"
    try:
        peer = sock.getpeername()
    except OSError:
        return f"an unconnected {what}"
    if family != socket.AF_UNIX:
        return f"a connected {what}"
    named = [
        f"{whose} named {name!r}"
        for whose, name in (("itself", sock.getsockname()), ("its peer", peer))
        if name
    ]
    return f"a connected {what}" + (f", {' and '.join(named)}" if named else "")
