"""Closing what clients gave us, where that may take as long as they like.

Whoever closes the last descriptor of a TCP socket with SO_LINGER waits for its peer, of a file in somebody's own file
system for that somebody, of a large memfd until its pages are freed; and what waits unread in a socket is closed along
with it. Nothing tells such a descriptor from a harmless one in time, so threads close them all, but for ends of
channels in which no descriptor waits.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from functools import partial
from typing import Final

from sysmem_protocol.handles import (
    Handle,
    descriptors_waiting,
    drop_unread,
    duplicate,
    shut_down,
    stop_receiving,
    unread_of,
)

from .ports import Clock, Log
from .threads import Pool

#: One is enough for harmless ones; each that isn't keeps one busy. When all are busy, descriptors pile up.
MAX_THREADS: Final = 32
#: How long something may wait to be closed before one more thread helps.
PATIENCE_NS: Final = 10_000_000
#: How long leaving the daemon may wait for the last ones, in seconds.
_JOIN_SECONDS: Final = 0.5


class ThreadClosing:
    """A :class:`sysmem_protocol.channel.Closing`."""

    def __init__(self, clock: Clock, log: Log) -> None:
        self._clock = clock
        self._log = log
        self._pool = Pool(MAX_THREADS, self._say_failed)
        self._is_watched = False
        self._said_stuck = False

    def close(self, fd: int) -> None:
        """Close a descriptor that a client sent, some time soon."""
        self._run(partial(os.close, fd))

    def close_end(self, fd: int) -> None:
        """Close one end of a socket pair; the other one sees that at once.

        Where no descriptors wait in it, as in every honest client's, that depends on no thread.
        """
        shut_down(fd)
        self._close_quietly(fd, safe=_is_empty(fd))

    def close_channel(
        self, end: socket.SocketType, far: Handle | None, *, hung_up: bool = False
    ) -> None:
        """Close one end of a channel, and the other one if that is given; both see that at once."""
        if not hung_up:
            try:  # noqa: SIM105 # each channel closes here, and a block takes three calls
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        if far is None:
            fd = end.detach()
            self._close_quietly(fd, safe=_is_empty(fd))
            return
        # Both have been shut down with that, so that nothing more comes.
        far_fd, fd = far.take(), end.detach()
        is_empty, far_is_empty = _is_read(far_fd), _is_read(fd)
        self._close_quietly(fd, safe=is_empty)
        self._close_quietly(far_fd, safe=far_is_empty)

    def _close_quietly(self, fd: int, *, safe: bool) -> None:
        """Close an end at once, if that is safe because nothing waits in it."""
        if safe:
            os.close(fd)
        else:
            self.close(fd)

    def stop_receiving(self, fd: int) -> None:
        """Let nothing more come to one end of a socket pair, and drop what waits there, some time soon.

        Where the kernel doesn't tell what waits there, because of what somebody has done to the end, the other end sees
        this one closed. Raises `OSError` when something has run out; the other end sees nothing of that.
        """
        stop_receiving(fd)
        try:
            if descriptors_waiting(fd) == 0:
                return
        except OSError as error:
            if error.errno != errno.EIO:
                raise
        self._run(partial(_drop, duplicate(fd)))

    def end(self) -> None:
        """Close what is left, if that can be done at once; the threads that can't are left to themselves."""
        self._pool.end(_JOIN_SECONDS)

    def _run(self, job: Callable[[], None]) -> None:
        if self._pool.do(job):
            self._watch()
            return
        try:
            job()
        except OSError as error:
            self._say_failed(error)

    def _watch(self) -> None:
        """Look again soon whether the threads get on with it."""
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
            self._log.error("descriptors of clients can't be closed", threads=MAX_THREADS)

    def _say_failed(self, error: Exception) -> None:
        # It is closed all the same, whatever its file system had to say.
        self._log.debug("closing a client's descriptor failed", reason=str(error))


def _is_empty(fd: int) -> bool:
    """Return whether certainly no descriptors wait at an end that has stopped receiving."""
    try:
        return descriptors_waiting(fd) == 0
    except OSError:
        return False


def _is_read(fd: int) -> bool:
    """Return whether certainly nothing waits to be received that one end has sent."""
    try:
        return unread_of(fd) == 0
    except OSError:
        return False


def _drop(fd: int) -> None:
    """Drop what waits at an end, and close this descriptor of it."""
    try:
        drop_unread(fd)
    except OSError:
        shut_down(fd)  # so that whoever still sends there closes it, and all that is in it
        raise
    finally:
        os.close(fd)
