"""Freeing memory: the last close of a buffer frees its pages, which takes 100 ms and more for some hundred MiB.

Small buffers are closed immediately. Others are closed in a thread, and a callback reports when this is done.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from functools import partial

from sysmem_protocol.handles import Handle
from sysmemd.threads import Pool, ring

from .watch import Hangups

#: The size up to which freeing (some 30 µs) needs no thread. All 128 buffers of a collection may be closed at once.
INLINE_BYTES = 256 * 1024
#: The unit of st_blocks.
_BLOCK_BYTES = 512

_Callback = Callable[[], None]


class Reclaimer:
    """Closes VMOs; large ones in a thread that exists while it is needed."""

    def __init__(self, hangups: Hangups) -> None:
        """Raises `OSError` if there are no descriptors left."""
        self._hangups = hangups
        #: Wakes the loop when the thread has finished something.
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        hangups.add_readable(self._news, self._take_news)
        self._pool = Pool(1, _forget)
        self._closed: deque[_Callback] = deque()
        self._given = self._done = 0
        #: By the number of closes that must be finished.
        self._waiting: deque[tuple[int, _Callback]] = deque()

    def close_vmo(self, vmo: Handle, done: _Callback, *, size: int | None = None) -> None:
        """Take ownership of a handle, close it, and then call `done`: before this returns, or later from the loop.

        The memory has at most `size` bytes, if that is known.
        """
        fd = vmo.take()
        is_small = size is not None and size <= INLINE_BYTES
        if not is_small and _is_large(fd) and self._pool.do(partial(self._close_large, fd, done)):
            self._given += 1
        else:
            os.close(fd)
            done()

    def when_freed(self, callback: _Callback) -> bool:
        """Call `callback` from the loop when all current closes have finished. Return False if there are none."""
        if self._done == self._given:
            return False
        self._waiting.append((self._given, callback))
        return True

    def close(self) -> None:
        """Wait for the thread to finish, without further callbacks. Must be called once."""
        self._hangups.remove(self._news)
        self._pool.end()
        os.close(self._news)

    def _close_large(self, fd: int, done: _Callback) -> None:
        try:
            os.close(fd)
        finally:
            self._closed.append(done)
            ring(self._news)

    def _take_news(self) -> None:
        os.eventfd_read(self._news)
        while self._closed:
            self._done += 1
            self._closed.popleft()()
        while self._waiting and self._waiting[0][0] <= self._done:
            self._waiting.popleft()[1]()


def _forget(error: Exception) -> None:
    """Do nothing: a descriptor is closed even if close() returns an error."""


def _is_large(fd: int) -> bool:
    """Return whether closing a file may take long because it frees many pages."""
    try:
        return os.fstat(fd).st_blocks * _BLOCK_BYTES > INLINE_BYTES
    except OSError:
        return True
