"""VMOs: sealed memfds, and handles to them that carry rights.

The size is sealed, so no participant can truncate a buffer under another's mapping. Mode 0600 and a daemon with a uid
of its own enforce the rights of a handle: another uid can't reopen it for writing, chmod it or map it writable. See
:func:`attenuation_is_advisory` for the uids to which this does not apply, and `docs/spec/linux.md`, "VMOs".
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable
from typing import TypeVar

from sysmem_protocol.handles import Handle, status

T = TypeVar("T")

#: Handle bytes (:mod:`.locks`) lie beyond the end of every VMO.
MAX_BYTES = 1 << 62

#: From linux/memfd.h; Python names the older flags only. The file is not executable, and that is sealed.
_MFD_NOEXEC_SEAL = 0x0008
_MFD_FLAGS = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_MODE = 0o600
_READ = os.O_RDONLY | os.O_CLOEXEC
_READ_WRITE = os.O_RDWR | os.O_CLOEXEC


def create(name: str, size: int) -> Handle:
    """Return a new zeroed VMO of `size` bytes, owned by the caller.

    Raises `OSError` when there are no descriptors left, with nothing kept.
    """
    vmo = Handle(_memfd(name))
    try:
        fd = vmo.fileno()
        os.fchmod(fd, _MODE)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        # The description that memfd_create makes doesn't count as a writer of the file, and so wouldn't stand in the
        # way of a read lease (F_SETLEASE), which would hold up every later opening for writing for most of a minute.
        return reopen(fd, writable=True)
    finally:
        vmo.close()


def reopen(fd: int, *, writable: bool) -> Handle:
    """Another handle to a VMO: a new open file description, for reading or for reading and writing.

    Raises `OSError` when there are no descriptors left.
    """
    flags = _READ_WRITE if writable else _READ
    try:
        return Handle(os.open(f"/proc/self/fd/{fd}", flags))
    except PermissionError:
        return Handle(through_proc(fd, lambda path: os.open(path, flags)))


def through_proc(fd: int, use: Callable[[str], T]) -> T:
    """Do something with a VMO that takes a path."""
    path = f"/proc/self/fd/{fd}"
    try:
        return use(path)
    except PermissionError:
        # A participant with the daemon's own uid may have changed the mode. Others must not be affected.
        os.fchmod(fd, _MODE)
        return use(path)


def access(fd: int) -> tuple[bool, bool]:
    """Return whether a description may be read, and whether it may be written. Neither, for an O_PATH one."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_PATH:
        return False, False
    mode = flags & os.O_ACCMODE
    return mode in (os.O_RDONLY, os.O_RDWR), mode in (os.O_WRONLY, os.O_RDWR)


def identity(fd: int) -> tuple[int, int]:
    """What tells a VMO from every other, as long as somebody holds on to its inode."""
    _, device, inode = status(fd)
    return device, inode


def attenuation_is_advisory(uid: int) -> bool:
    """Return whether a participant with this uid can get around missing rights by reopening its handles through /proc.

    It is so for the daemon's own uid, which owns the memory, and for root. Such participants are trusted with writing;
    the daemon says so in its log when one connects.
    """
    return uid in (0, os.geteuid())


def dma_buf_users(device: str = "/dev/udmabuf") -> str | None:
    """Who besides root may make dma-bufs of VMOs, in words; None if nobody may, or there is no such device.

    A dma-buf can be written to, whatever the rights of the handle that it was made of.
    """
    try:
        found = os.stat(device)
    except OSError:
        return None
    if found.st_mode & 0o006:
        return "every user"
    if found.st_mode & 0o060 and found.st_gid:
        return f"the group {found.st_gid}"
    return f"the user {found.st_uid}" if found.st_uid else None


def _memfd(name: str) -> int:
    with contextlib.suppress(OSError):
        return os.memfd_create(name, _MFD_FLAGS | _MFD_NOEXEC_SEAL)
    # Kernels before 6.3 don't know the flag. When something else was wrong it is so again.
    return os.memfd_create(name, _MFD_FLAGS)
