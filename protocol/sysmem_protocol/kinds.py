"""The object that a descriptor refers to: its number, its kind, and how to name it in an error message.

Nothing here asks the object's file system, which may never answer.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import stat
import struct
from typing import NamedTuple

from .handles import BorrowedSocket, Handle
from .library import HandleKind


class Status(NamedTuple):
    """The object of a descriptor: type and permissions, device, inode."""

    mode: int
    device: int
    inode: int


def status(fd: int) -> Status:
    """Return the object of a descriptor.

    This uses only what the kernel has cached, because a file system may never answer.
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
