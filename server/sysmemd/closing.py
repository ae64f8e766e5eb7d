"""Closing descriptors that came from clients, which may take arbitrarily long.

Closing the last descriptor of a TCP socket with SO_LINGER waits for its peer; closing a file in a user's own file
system waits for that user; closing a large memfd waits until its pages are freed; and closing a socket also closes the
descriptors queued in it. There is no quick way to recognise such a descriptor, so threads close all of them, except
ends of channels in which no descriptor is queued.
"""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from sysmem_protocol.handles import (
    Handle,
    descriptors_waiting,
    drop_unread,
    duplicate,
    open_fdinfo,
    shut_down,
    stop_receiving,
    unread_of,
)

from .ports import Clock, Log
from .threads import Pool

#: One thread is enough for harmless descriptors. Each other one keeps one thread busy. If all are busy, descriptors
#: pile up.
MAX_THREADS: Final = 32
#: How long a descriptor may wait before one more thread is started.
PATIENCE_NS: Final = 10_000_000
#: The maximum time in seconds that the daemon's end waits for the last descriptors.
_JOIN_SECONDS: Final = 0.5
#: How long a thread waits before it repeats a call that lacked memory, in seconds.
_AGAIN_SECONDS: Final = 0.1
_SHORT_OF_MEMORY: Final = (errno.ENOMEM, errno.ENOBUFS)


class ThreadClosing:
    """A :class:`sysmem_protocol.channel.Closing`."""

    def __init__(self, clock: Clock, log: Log) -> None:
        self._clock = clock
        self._log = log
        self._pool = Pool(MAX_THREADS, self._say_failed)
        self._is_watched = False
        self._said_stuck = False

    def close(self, fd: int) -> None:
        """Close a descriptor from a client, in a thread."""
        self._run(partial(os.close, fd))

    def close_end(self, fd: int) -> None:
        """Close one end of a socket pair. The other end sees this immediately.

        If no descriptors are queued in it, as with every honest client, no thread is needed.
        """
        shut_down(fd)
        self._close_quietly(fd, safe=_is_empty(fd))

    def close_channel(
        self, end: socket.SocketType, far: Handle | None, *, hung_up: bool = False
    ) -> None:
        """Close one end of a channel, and the other end too if it is given. Both see this immediately."""
        if not hung_up:
            try:  # noqa: SIM105 # each channel closes here, and a block takes three calls
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        if far is None:
            fd = end.detach()
            self._close_quietly(fd, safe=_is_empty(fd))
            return
        # Both ends have been shut down by this, so nothing more can arrive.
        far_fd, fd = far.take(), end.detach()
        is_empty, far_is_empty = _is_read(far_fd), _is_read(fd)
        self._close_quietly(fd, safe=is_empty)
        self._close_quietly(far_fd, safe=far_is_empty)

    def _close_quietly(self, fd: int, *, safe: bool) -> None:
        """Close an end immediately if that is safe because nothing is queued in it."""
        if safe:
            os.close(fd)
        else:
            self.close(fd)

    def stop_receiving(self, fd: int) -> None:
        """Shut down receiving at one end of a socket pair, and drop the messages queued there, in a thread.

        If the kernel does not report what is queued, because of changes to the end, the other end sees this one closed.
        Raises `OSError` if a resource is exhausted; the other end sees nothing in that case.
        """
        stop_receiving(fd)
        try:
            if descriptors_waiting(fd) == 0:
                return
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        # A thread that found no descriptor left could tell nobody, so everything that it needs is opened here.
        end = duplicate(fd)
        try:
            fdinfo = open_fdinfo(end)
        except OSError:
            os.close(end)
            raise
        drop = partial(_drop, end, fdinfo)
        self._run(partial(drop, may_wait=True), partial(drop, may_wait=False))

    def end(self) -> None:
        """Close the remaining descriptors, if that is immediately possible. Busy threads are abandoned."""
        self._pool.end(_JOIN_SECONDS)

    def _run(self, job: Callable[[], None], here: Callable[[], None] | None = None) -> None:
        """Do a job in a thread. If there is none, do it now, or in this case `here` instead."""
        if self._pool.do(job):
            self._watch()
            return
        try:
            (here or job)()
        except OSError as error:
            self._say_failed(error)

    def _watch(self) -> None:
        """Check soon whether the threads make progress."""
        if not self._is_watched:
            self._is_watched = True
            self._clock.call_at(self._clock.now() + PATIENCE_NS, self._look)

    def _look(self) -> None:
        self._is_watched = False
        if not self._pool.is_behind:
            return
        if self._pool.help():
            self._said_stuck = False
            self._watch()
        elif not self._said_stuck:
            self._said_stuck = True
            self._log.error(
                "clients' descriptors are not being closed: all closing threads are blocked",
                threads=MAX_THREADS,
            )

    def _say_failed(self, error: Exception) -> None:
        # The descriptor is closed in spite of the error.
        self._log.debug("closing a client's descriptor failed", reason=str(error))


def _is_empty(fd: int) -> bool:
    """Return whether an end that has stopped receiving certainly has no queued descriptors."""
    try:
        return descriptors_waiting(fd) == 0
    except OSError:
        return False


def _is_read(fd: int) -> bool:
    """Return whether certainly everything that one end has sent was received."""
    try:
        return unread_of(fd) == 0
    except OSError:
        return False


def _drop(fd: int, fdinfo: int, *, may_wait: bool) -> None:
    """Drop what is queued at an end, and close these two descriptors of it.

    If memory is short, this tries again until it is not. If it may not wait, it leaves the rest in the queue instead,
    which the kernel drops with the end. It does not shut the end down in this case: the client would take that for the
    event.
    """
    try:
        while True:
            try:
                drop_unread(fd, fdinfo)
            except OSError as error:
                if error.errno not in _SHORT_OF_MEMORY:
                    shut_down(fd)  # so that the sender closes its end, and everything queued in it
                    raise
                if not may_wait:
                    raise
                time.sleep(_AGAIN_SECONDS)
            else:
                return
    finally:
        os.close(fdinfo)
        os.close(fd)
