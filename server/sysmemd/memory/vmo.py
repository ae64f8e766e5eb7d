"""VMOs: sealed memfds, and handles to them with rights.

The size is sealed, so no participant can truncate a buffer under another's mapping. Mode 0600 and a daemon with a uid
of its own enforce the rights of a handle: another uid can't reopen it for writing, chmod it or map it writable. See
:func:`attenuation_is_advisory` for the uids to which this does not apply, and `docs/spec/linux.md`, "VMOs".
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable
from typing import TypeVar

from sysmem_protocol.handles import Handle
from sysmem_protocol.kinds import status

T = TypeVar("T")

#: The handle bytes (:mod:`.locks`) are beyond the end of every VMO.
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

    Raises `OSError` if there are no descriptors left; nothing is kept then.
    """
    vmo = Handle(_memfd(name))
    try:
        fd = vmo.fileno()
        os.fchmod(fd, _MODE)
        os.ftruncate(fd, size)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        # The description from memfd_create does not count as a writer of the file, so it would not prevent a read lease
        # (F_SETLEASE), which would block every later opening for writing for most of a minute.
        return reopen(fd, writable=True)
    finally:
        vmo.close()


def reopen(fd: int, *, writable: bool) -> Handle:
    """Return another handle to a VMO: a new open file description, for reading or for reading and writing.

    Raises `OSError` if there are no descriptors left.
    """
    flags = _READ_WRITE if writable else _READ
    try:
        return Handle(os.open(f"/proc/self/fd/{fd}", flags))
    except PermissionError:
        return Handle(through_proc(fd, lambda path: os.open(path, flags)))


def through_proc(fd: int, use: Callable[[str], T]) -> T:
    """Call `use` with a path to a VMO, and return its result."""
    path = f"/proc/self/fd/{fd}"
    try:
        return use(path)
    except PermissionError:
        # A participant with the daemon's own uid may have changed the mode. Others must not be affected.
        os.fchmod(fd, _MODE)
        return use(path)


def access(fd: int) -> tuple[bool, bool]:
    """Return whether a description is readable, and whether it is writable. An O_PATH description is neither."""
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    if flags & os.O_PATH:
        return False, False
    mode = flags & os.O_ACCMODE
    return mode in (os.O_RDONLY, os.O_RDWR), mode in (os.O_WRONLY, os.O_RDWR)


def identity(fd: int) -> tuple[int, int]:
    """Return the identity of a VMO, which is unique as long as its inode is referenced."""
    _, device, inode = status(fd)
    return device, inode


def attenuation_is_advisory(uid: int) -> bool:
    """Return whether a participant with this uid can circumvent missing rights by reopening its handles through /proc.

    This is possible for the daemon's own uid, which owns the memory, and for root. Such participants are trusted to
    respect the rights. The daemon logs this when one connects.
    """
    return uid in (0, os.geteuid())


def dma_buf_users(device: str = "/dev/udmabuf") -> str | None:
    """Return a description of the users besides root that can make dma-bufs of VMOs; None if there are none.

    A dma-buf is writable, whatever the rights of the handle that it was made of.
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
    try:
        return os.memfd_create(name, _MFD_FLAGS | _MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:  # kernels before 6.3 do not know the flag
            raise
        return os.memfd_create(name, _MFD_FLAGS)
