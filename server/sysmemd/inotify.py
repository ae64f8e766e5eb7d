"""The kernel's inotify, `inotify(7)`: reports about inodes and directories, so that nothing polls."""

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
#: Not an event: extend the existing mask of an inode. Without it, the mask is replaced.
IN_MASK_ADD: Final = 0x2000_0000

#: `struct inotify_event`: watch, mask, cookie, length of the name that follows.
_EVENT = struct.Struct("iIII")
#: The default length of a full queue: the events, without names, that one read returns.
MAX_REPORTS = 16_384

_libc = ctypes.CDLL(None, use_errno=True)
_libc.inotify_init1.argtypes = [ctypes.c_int]
_libc.inotify_add_watch.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32]

#: The kernel has no separate errors for its limits on inotify. The text is only "No space left on device".
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
    """An event of a watch. The masks are those of `inotify(7)`."""

    watch: int
    mask: int


class Inotify:
    """One instance, with its watches."""

    def __init__(self) -> None:
        """Raises `OSError` if no instance or descriptor is left. The text names the limit."""
        self._fd = _check("inotify_init1", _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))

    def fileno(self) -> int:
        """Return a descriptor that is readable when there are reports, or -1 after close."""
        return self._fd

    def close(self) -> None:
        """Drop all watches. Idempotent."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def watch(self, path: str, mask: int) -> int:
        """Report the events of `mask` from now on. Return the watch's number, the same for all paths of an inode.

        Raises `OSError` if no watch is left (the text names the limit), or if the path cannot be read.
        """
        result = _libc.inotify_add_watch(self._fd, os.fsencode(path), mask)
        return _check("inotify_add_watch", result)

    def read(self, most: int = MAX_REPORTS) -> list[Report]:
        """Return the reports since the last read: at most a full queue, or about `most`. Never blocks."""
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
