"""Eventpairs that threads wait for."""

from __future__ import annotations

import os
import select
import threading

from sysmem_protocol.handles import HandleClosedError

from .._process import this_process
from .._timeouts import deadline as deadline_after
from .._timeouts import milliseconds, remaining
from .._vmo import EventPair, hung_up


class BlockingEventPair(EventPair):
    """One end of an eventpair, which the daemon closes its end of when something has happened.

    For any number of threads at once.
    """

    __slots__ = ("_left", "_lock", "_process", "_waiting", "_waker")

    def __init__(self, fd: int) -> None:
        """Become the owner of `fd`."""
        super().__init__(fd)
        self._lock = threading.Lock()
        #: Threads in a wait, and the process that they are in; what wakes them; what the last of them closes.
        self._waiting = 0
        self._process = this_process()
        self._waker = -1
        self._left = -1

    def is_closed(self) -> bool:
        """Whether the other end is closed, without waiting."""
        return hung_up(self.fileno())

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait until the other end is closed, `timeout` seconds at most: True, or False when the time is over.

        Raises `HandleClosedError` when this end is closed, also when another thread does that meanwhile.
        """
        deadline = deadline_after(timeout)
        if self.is_closed():
            return True
        with self._locked():
            fd = self.fileno()
            self._enter()
            waker = self._waker
        try:
            poll = select.poll()
            poll.register(fd, select.POLLRDHUP)
            poll.register(waker, select.POLLIN)
            poll.poll(milliseconds(remaining(deadline)))
        finally:
            with self._locked():
                self._leave()
        if self.closed:
            raise HandleClosedError("this eventpair was closed by another thread")
        return self.is_closed()

    def take(self) -> int:
        """Give the descriptor away. Raises `RuntimeError` while a thread waits on it."""
        with self._locked():
            if self._waiting:
                raise RuntimeError("a thread waits on this eventpair; it can't be given away")
            return super().take()

    def close(self) -> None:
        """Close this end; threads that wait on it get a HandleClosedError. Idempotent."""
        with self._locked():
            if self._waiting and not self.closed:
                self._left = super().take()
                os.eventfd_write(self._waker, 1)
            else:
                super().close()

    def _locked(self) -> threading.Lock:
        """The lock, to be held by a with-block."""
        if self._process is not this_process():
            # We are the child of a fork, which took none of the waiting threads along.
            self._process = this_process()
            self._lock = threading.Lock()
            if self._waiting:
                self._waiting = 1
                self._leave()
        return self._lock

    def _enter(self) -> None:
        if not self._waiting:
            self._waker = os.eventfd(0, os.EFD_CLOEXEC)
        self._waiting += 1

    def _leave(self) -> None:
        self._waiting -= 1
        if not self._waiting:
            os.close(self._waker)
            if self._left >= 0:
                os.close(self._left)
            self._waker = self._left = -1
