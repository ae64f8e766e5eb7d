"""The kernel's inotify, `inotify(7)`: what it reports of inodes and directories, so that nothing polls."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

# From sys/inotify.h.
IN_CLOSE_WRITE: Final = 0x0008
IN_CLOSE_NOWRITE: Final = 0x0010
IN_MOVED_FROM: Final = 0x0040
IN_MOVED_TO: Final = 0x0080
IN_DELETE: Final = 0x0200
IN_DELETE_SELF: Final = 0x0400
IN_MOVE_SELF: Final = 0x0800
IN_Q_OVERFLOW: Final = 0x4000
IN_IGNORED: Final = 0x8000
#: Not an event: add to what is reported already of an inode. Without it, that is replaced.
IN_MASK_ADD: Final = 0x2000_0000

#: `struct inotify_event`: watch, mask, cookie, length of the name that follows.
_EVENT = struct.Struct("iIII")
#: A full queue of the default length: events without names, read at once.
MAX_REPORTS = 16_384

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_init1.argtypes = [ctypes.c_int]
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]

#: The kernel has no errors of its own for its limits on inotify, so that "No space left on device" is all it says.
_LIMITS: Final = {
    (
        "inotify_init1",
        errno.EMFILE,
    ): "no inotify instance or descriptor is left: this user has as many as the sysctl "
    "fs.inotify.max_user_instances allows, or this process as many descriptors as RLIMIT_NOFILE allows",
    (
        "inotify_add_watch",
        errno.ENOSPC,
    ): "no inotify watch is left: this user has as many as the sysctl "
    "fs.inotify.max_user_watches allows",
}


class Report(NamedTuple):
    """Something happened to what a watch is on; the masks are those of `inotify(7)`."""

    watch: int
    mask: int


class Inotify:
    """One instance, with its watches."""

    def __init__(self) -> None:
        """Raises `OSError` when no instance or descriptor is left; the text names the limit."""
        self._fd = _check("inotify_init1", _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        """Readable when there is something to read; -1 once closed."""
        return self._fd

    def close(self) -> None:
        """Drop all watches. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def watch(self, path: str, mask: int) -> int:
        """Report the events of `mask` from now on; return the watch's number, the same for every path of an inode.

        Raises `OSError` when no watch is left, naming the limit, or the path can't be read.
        """
        result = _libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
        return _check("inotify_add_watch", result)

    def read(self, most: int = MAX_REPORTS) -> list[Report]:
        """Return what was reported since the last time, at most a full queue, or about `most`; never blocks."""
        with contextlib.suppress(BlockingIOError):
            return list(_reports(os.read(self._fd, most * _EVENT.size)))
        return []


def _reports(data: bytes) -> Iterator[Report]:
    position = 0
    while position < len(data):
        watch, mask, _, name_length = _EVENT.unpack_from(data, position)
        yield Report(watch, mask)
        position += _EVENT.size + name_length


def _check(call: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, _LIMITS.get((call, number)) or os.strerror(number))
    return result
