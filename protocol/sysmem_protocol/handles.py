"""Descriptors with an owner, and the kinds of objects that descriptors refer to.

A :class:`Handle` owns one descriptor. Ownership is passed on with :meth:`Handle.move` or :meth:`Handle.take`; otherwise
the handle must be closed. An open handle that is garbage-collected is closed with a warning. Code that receives
descriptors wraps them immediately, so that on every path, including exceptions, an owner closes them.
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
        #: Why there is no descriptor, unless this handle was closed.
        self._gone: str | None = None
        self._cell = Number(owned, close) if isinstance(owned, int) else owned

    def fileno(self) -> int:
        """Return the descriptor. This handle keeps ownership. Raises :class:`HandleClosedError` if it has none."""
        cell = self._cell
        if type(cell) is Number:
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
        return number(self._cell) < 0

    def take(self) -> int:
        """Give up ownership of the descriptor and return it."""
        self.fileno()
        fd = detach(self._cell)
        self._cell = _EMPTY
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
        self._cell = _EMPTY
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
        self._cell = _EMPTY
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
        cell = self._cell
        if cell is not _EMPTY:
            close_cell(cell)
            self._cell = _EMPTY

    def __del__(self, _warn: Any = warnings.warn) -> None:
        # Most handles are closed by then, and the complete check would cost more than closing.
        if getattr(self, "_cell", _EMPTY) is not _EMPTY:
            super().__del__(_warn)

    def _lose(self, why: str = FORKED) -> None:
        if not self.closed:
            self._gone = why
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
    _, kind = _family_and_type(sock)
    is_stream = kind == socket.SOCK_STREAM
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


# --- status ---------------------------------------------------------------------------------------------------------


class Status(NamedTuple):
    """The object of a descriptor: type and permissions, device, inode."""

    mode: int
    device: int
    inode: int


def status(fd: int) -> Status:
    """Return the object of a descriptor, from information that the kernel has cached: a file system may never answer.

    The mode is 0 if not even that is known. Raises `OSError` if the descriptor is not open, or if memory is short.
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


# From linux/stat.h and fcntl.h. The used fields of `struct statx`: mode, inode, major and minor number of the device.
_AT_EMPTY_PATH = 0x1000
_AT_STATX_DONT_SYNC = 0x4000
_STATX_TYPE = 0x0001
_STATX_INO = 0x0100
_STATX = struct.Struct("=28xH2xQ96x2I112x")
#: None if the C library does not have it.
_statx = getattr(ctypes.CDLL(None, use_errno=True), "statx", None)


# --- kinds --------------------------------------------------------------------------------------------------------


def describe(fd: int) -> str:
    """Return what a descriptor is, in words for an error message."""
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
    return os.readlink(f"/proc/self/fd/{fd}")  # for example anon_inode:[eventfd]


def is_socketpair_end(fd: int, *types: int) -> bool:
    """Return whether a descriptor is one end of a connected pair of nameless Unix sockets of one of the `types`."""
    try:
        sock = BorrowedSocket(fd)
        return _is_nameless_end(sock, types) and sock.getsockname() == ""
    except OSError:
        return False


def is_nameless_end(handle: Handle, *types: int) -> bool:
    """Return whether a handle is one end of a connected Unix socket pair of one of the `types`, with a nameless peer.

    The end itself may have a name.
    """
    try:
        return _is_nameless_end(handle.as_socket(), types)
    except OSError:
        return False


def _is_nameless_end(sock: socket.SocketType, types: tuple[int, ...]) -> bool:
    # Only the address of a Unix socket is a str.
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE) in types and sock.getpeername() == ""


def is_seqpacket(fd: int) -> bool:
    """Return whether a descriptor is a SOCK_SEQPACKET Unix socket, in any state."""
    if not _is_socket(fd):
        return False
    return _family_and_type(BorrowedSocket(fd)) == (socket.AF_UNIX, socket.SOCK_SEQPACKET)


def is_unix_socket(fd: int) -> bool:
    """Return whether a descriptor is an AF_UNIX socket of any type, in any state."""
    if not _is_socket(fd):
        return False
    return _family_and_type(BorrowedSocket(fd))[0] == socket.AF_UNIX


def is_vmo(fd: int) -> bool:
    """Return whether a descriptor is a memfd, a regular file or a dma-buf, and was not opened with O_PATH."""
    mode = status(fd).mode
    return (stat.S_ISREG(mode) or (not stat.S_IFMT(mode) and is_dma_buf(fd))) and not _only_a_path(
        fd
    )


def is_dma_buf(fd: int) -> bool:
    """Return whether a descriptor is a dma-buf."""
    return os.readlink(f"/proc/self/fd/{fd}").startswith("/dmabuf:")


def is_kind(fd: int, kind: HandleKind) -> bool:
    """Return whether a descriptor can be of a kind, as far as the kernel can tell.

    A client end is checked only by its type, because only the server knows which ones are tokens. Events are also
    checked by the server, which recognises the objects that it made node_refs from.
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
    """Return whether a descriptor was opened with O_PATH. It shows the type of its object, but cannot be used."""
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
    # Python does not have a name for every number that the kernel knows.
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
