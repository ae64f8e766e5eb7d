"""The wake-ups: what the kernel reports of buffers and of the other ends of eventpairs, so that nothing polls.

:class:`InodeWatch` is the daemon's one inotify instance. A watch holds the inode (not the memory: that goes with the
last reference), so the number that identifies a buffer isn't given to another file before the buffer is gone.

:class:`Hangups` tells when the other end of an eventpair is closed, and has the one descriptor that the daemon waits
on.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from dataclasses import dataclass, field

from ..inotify import (
    IN_CLOSE_NOWRITE,
    IN_CLOSE_WRITE,
    IN_DELETE_SELF,
    IN_IGNORED,
    IN_Q_OVERFLOW,
    MAX_REPORTS,
    Inotify,
)
from .vmo import through_proc

_CLOSINGS = IN_CLOSE_WRITE | IN_CLOSE_NOWRITE
# The end of a watch is reported whatever was asked for, but something must be asked for.
_END_ONLY = IN_DELETE_SELF
#: How many calls are made in a row.
_CALLS_AT_ONCE = 16


@dataclass(slots=True)
class Reports:
    """What was reported since the last reading, by watch number; each set has a watch once."""

    closings: set[int] = field(default_factory=set)
    ends: set[int] = field(default_factory=set)
    #: The queue was full: anything may have happened to any watch.
    overflow: bool = False

    def __bool__(self) -> bool:
        """Return whether anything was reported."""
        return bool(self.closings or self.ends or self.overflow)


class InodeWatch:
    """Watches on buffers: the closing of a handle to one, and its end."""

    def __init__(self) -> None:
        """Raises `OSError` when the user has too many inotify instances, or there are no descriptors left."""
        self._inotify = Inotify()
        try:
            # Lists the watches. Kept open, as reports may be lost while there are no descriptors left.
            self._fdinfo = open(f"/proc/self/fdinfo/{self.fileno()}", "rb", buffering=0)  # noqa: SIM115
        except OSError:
            self._inotify.close()
            raise

    def fileno(self) -> int:
        """Readable when there is something to read."""
        return self._inotify.fileno()

    def close(self) -> None:
        """Drop all watches. Idempotent."""
        self._fdinfo.close()
        self._inotify.close()

    def watch_end(self, fd: int) -> int:
        """Report only the end of this buffer: when its last reference is gone. Returns the watch's number.

        Raises `OSError` when the user has too many watches; not when this buffer is watched already.
        """
        return self._watch(fd, _END_ONLY)

    def watch_closings(self, fd: int) -> int:
        """Report also each time when the last descriptor and mapping of one handle are gone."""
        return self._watch(fd, _CLOSINGS)

    def read(self, most: int = MAX_REPORTS) -> Reports:
        """What was reported since the last time, at most a full queue, or about `most`; never blocks."""
        reports = Reports()
        for watch, mask in self._inotify.read(most):
            if mask & IN_IGNORED:
                reports.ends.add(watch)
            elif mask & IN_Q_OVERFLOW:
                reports.overflow = True
            elif mask & _CLOSINGS:
                reports.closings.add(watch)
        return reports

    def alive(self) -> set[int]:
        """Return the watches that haven't ended, for when reports were lost."""
        self._fdinfo.seek(0)
        return {
            int(line.split()[1].removeprefix(b"wd:"), 16)
            for line in self._fdinfo.readall().splitlines()
            if line.startswith(b"inotify wd:")
        }

    def _watch(self, fd: int, mask: int) -> int:
        return through_proc(fd, lambda path: self._inotify.watch(path, mask))


class Hangups:
    """Calls back when the other end of a socket is closed; what is sent to it is never looked at."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}

    def fileno(self) -> int:
        """Readable when :meth:`process` has something to do."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Call nobody back any more."""
        self._epoll.close()
        self._callbacks.clear()

    def add_readable(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back each time when a descriptor is readable."""
        self._add(fd, callback, select.EPOLLIN)

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back when the other end of `fd` is closed. The callback, or whoever closes `fd`, removes it.

        Raises `OSError` when the kernel is out of memory for it.
        """
        self._add(fd, callback, 0)  # a hangup is reported without being asked for

    def remove(self, fd: int) -> None:
        """Forget a descriptor; to be done before it is closed, as a copy elsewhere would keep it registered.

        Harmless once this is closed.
        """
        if self._callbacks.pop(fd, None) is not None:
            with contextlib.suppress(OSError):  # it goes with the descriptor then
                self._epoll.unregister(fd)

    def process(self) -> None:
        """Make some of the calls that are due; never blocks. :meth:`fileno` stays readable when there are more."""
        for fd, _ in self._epoll.poll(0, _CALLS_AT_ONCE):
            # A callback may have removed one that comes later.
            if callback := self._callbacks.get(fd):
                callback()

    def _add(self, fd: int, callback: Callable[[], None], events: int) -> None:
        self._epoll.register(fd, events)
        self._callbacks[fd] = callback
