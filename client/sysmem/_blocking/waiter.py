"""Threads that wait for something that a descriptor tells."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from typing import TypeVar

from .._process import this_process
from .._timeouts import deadline as deadline_after
from .._timeouts import milliseconds, remaining

T = TypeVar("T")


class Waiter:
    """Threads that try something again each time a descriptor is readable."""

    __slots__ = ("_close", "_closed", "_fd", "_lock", "_process", "_waiting", "_waker")

    def __init__(self, fd: int, close: Callable[[], None]) -> None:
        """Wait for `fd`, and call `close` after :meth:`close`, once or twice, when nobody waits any more."""
        self._fd = fd
        self._close = close
        self._closed = False
        #: A signal handler may close what the thread that it interrupted waits for.
        self._lock = threading.RLock()
        self._process = this_process()
        #: One object for each thread in a wait.
        self._waiting: set[object] = set()
        #: What wakes those who wait; -1 while nobody does.
        self._waker = -1

    def until(
        self, attempt: Callable[[], T | None], timeout: float | None, late: Callable[[], str]
    ) -> T:
        """Return what `attempt()` does as soon as that isn't None; it is called each time the descriptor is readable.

        What it raises ends the waiting.

        Raises:
            TimeoutError: `timeout` seconds are over; `late()` is the text.
        """
        deadline = deadline_after(timeout)
        found = attempt()
        if found is not None:
            return found
        me = object()
        try:
            self._enter(me)
            # Once more: another thread may have had what it takes before it could know that this one waits.
            while (found := attempt()) is None:
                if not self._wait(deadline):
                    raise TimeoutError(late())
            return found
        finally:
            self._leave(me)

    def wake(self) -> None:
        """Let one of those who wait, if any, try again though the descriptor tells nothing."""
        if self._waiting:
            with self._lock:
                if self._waker >= 0:
                    os.eventfd_write(self._waker, 1)

    def close(self) -> None:
        """Wake everybody, and close the descriptor once they are awake. Idempotent."""
        if self._process is not this_process():  # a fork takes no threads along
            self._lock = threading.RLock()
            self._waiting.clear()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._waiting:
                self.wake()
            else:
                self._close_waker()
                self._close()

    def _enter(self, me: object) -> None:
        with self._lock:
            self._waiting.add(me)
            if self._waker < 0:
                self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def _leave(self, me: object) -> None:
        with self._lock:
            self._waiting.discard(me)
            if not self._waiting:
                self._close_waker()
                if self._closed:
                    self._close()

    def _wait(self, deadline: float | None) -> bool:
        """Wait until the descriptor is readable, or this is woken or closed; False when the time is over."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN | select.POLLRDHUP)
        poll.register(self._waker, select.POLLIN)
        ready = poll.poll(milliseconds(remaining(deadline)))
        if not self._closed:  # else each of those who wait is to see it
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._waker)
        return bool(ready)

    def _close_waker(self) -> None:
        waker, self._waker = self._waker, -1
        if waker >= 0:
            os.close(waker)
