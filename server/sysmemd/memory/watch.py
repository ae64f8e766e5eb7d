"""The kernel's reports about buffers and about the other ends of eventpairs, so that nothing has to poll.

:class:`InodeWatch` is the daemon's only inotify instance. A watch keeps the inode (not the memory, which is freed with
the last reference), so the inode number of a buffer is not reused before the buffer is gone.

:class:`Hangups` reports when the other end of an eventpair is closed, and has the one descriptor that the daemon waits
for.
"""

from __future__ import annotations

import contextlib
import re
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
_WATCHES = re.compile(rb"^inotify wd:([0-9a-f]+)", re.MULTILINE)
# The end of a watch is always reported, but the mask must not be empty.
_END_ONLY = IN_DELETE_SELF
#: How many calls are made in a row.
_CALLS_AT_ONCE = 16


@dataclass(slots=True)
class Reports:
    """The reports since the last read, by watch number. Each set contains a watch once."""

    closings: set[int] = field(default_factory=set)
    ends: set[int] = field(default_factory=set)
    #: The queue was full: any watch may have had any event.
    overflow: bool = False

    def __bool__(self) -> bool:
        """Return whether anything was reported."""
        return bool(self.closings or self.ends or self.overflow)


class InodeWatch:
    """Watches on buffers: for the close of a handle, and for the buffer's end."""

    def __init__(self) -> None:
        """Raises `OSError` if the user has too many inotify instances, or there are no descriptors left."""
        self._inotify = Inotify()
        try:
            # Lists the watches. It is kept open because reports may be lost while there are no descriptors left.
            self._fdinfo = open(f"/proc/self/fdinfo/{self.fileno()}", "rb", buffering=0)  # noqa: SIM115
        except OSError:
            self._inotify.close()
            raise

    def fileno(self) -> int:
        """Return a descriptor that is readable when there are reports."""
        return self._inotify.fileno()

    def close(self) -> None:
        """Drop all watches. Idempotent."""
        self._fdinfo.close()
        self._inotify.close()

    def watch_end(self, fd: int) -> int:
        """Report only the end of this buffer, when its last reference is gone. Return the watch's number.

        Raises `OSError` if the user has too many watches, but not if this buffer is already watched.
        """
        return self._watch(fd, _END_ONLY)

    def watch_closings(self, fd: int) -> int:
        """Also report each time when the last descriptor and mapping of one handle are gone."""
        return self._watch(fd, _CLOSINGS)

    def read(self, most: int = MAX_REPORTS) -> Reports:
        """Return the reports since the last read: at most a full queue, or about `most`. Never blocks."""
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
        """Return the watches that have not ended, for when reports were lost."""
        self._fdinfo.seek(0)
        return {int(number, 16) for number in _WATCHES.findall(self._fdinfo.readall())}

    def _watch(self, fd: int, mask: int) -> int:
        return through_proc(fd, lambda path: self._inotify.watch(path, mask))


class Hangups:
    """Calls back when the other end of a socket is closed. Data that is sent to the socket is never read."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}

    def fileno(self) -> int:
        """Return a descriptor that is readable when :meth:`process` has something to do."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Stop all callbacks."""
        self._epoll.close()
        self._callbacks.clear()

    def add_readable(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back each time a descriptor is readable."""
        self._add(fd, callback, select.EPOLLIN)

    def add(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back when the other end of `fd` is closed. The callback, or the code that closes `fd`, must remove it.

        Raises `OSError` if the kernel is out of memory for it.
        """
        self._add(fd, callback, 0)  # a hangup is reported for any mask

    def remove(self, fd: int) -> None:
        """Remove a descriptor. This must be done before closing it, because a duplicate would keep it registered.

        No effect after this object is closed.
        """
        if self._callbacks.pop(fd, None) is not None:
            with contextlib.suppress(OSError):  # closing the epoll removes it in that case
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
