"""Threads that wait for a condition that a descriptor announces."""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable
from typing import TypeVar

from sysmem_protocol.owner import Cell, owned

from .._process import this_process
from .._timeouts import deadline as deadline_after
from .._timeouts import milliseconds, remaining

T = TypeVar("T")


class Waiter:
    """Threads that check a condition each time a descriptor becomes readable."""

    __slots__ = ("_close", "_closed", "_fd", "_lock", "_polls", "_process", "_waiting", "_waker")

    def __init__(self, fd: int, close: Callable[[], None]) -> None:
        """Wait for `fd`. After :meth:`close`, `close` is called once or twice when no thread waits any more."""
        self._fd = fd
        self._close = close
        self._closed = False
        #: Reentrant, because a signal handler may close this object during a wait of the interrupted thread.
        self._lock = threading.RLock()
        self._process = this_process()
        #: The waiting threads, by a unique object for each wait.
        self._waiting: dict[object, int] = {}
        #: The eventfd that wakes waiting threads; None until it is needed.
        self._waker: Cell | None = None
        #: Poll objects that are not in use.
        self._polls: list[select.poll] = []

    def until(
        self, attempt: Callable[[], T | None], timeout: float | None, late: Callable[[], str]
    ) -> T:
        """Return the result of `attempt()` as soon as it is not None. Call it each time the descriptor is readable.

        An exception of `attempt()` ends the wait.

        Raises:
            TimeoutError: `timeout` seconds have passed; `late()` is the text.
        """
        deadline = deadline_after(timeout)
        if self._waker is None:
            self._make_waker()
        me = object()
        try:
            # Register before the first attempt, so that other threads know that this one may have to be woken.
            self._waiting[me] = threading.get_ident()
            while (found := attempt()) is None:
                if not self._wait(deadline):
                    raise TimeoutError(late())
            return found
        finally:
            self._leave(me)

    def wake(self) -> None:
        """Let another waiting thread, if there is one, check again, although the descriptor is not readable."""
        if self._waiting:
            me = threading.get_ident()
            with self._lock:
                if any(thread != me for thread in tuple(self._waiting.values())):
                    self._wake_one()

    def close(self) -> None:
        """Wake all threads, and close the descriptor when they are awake. Idempotent."""
        if self._process is not this_process():  # a forked child does not have the threads
            self._lock = threading.RLock()
            self._waiting.clear()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._waiting:
                self._wake_one()
            else:
                self._close_all()

    def _leave(self, me: object) -> None:
        self._waiting.pop(me, None)
        if self._closed:
            with self._lock:
                if not self._waiting:
                    self._close_all()

    def _wait(self, deadline: float | None) -> bool:
        """Wait until the descriptor is readable, or until wake() or close(). Return False after the deadline."""
        poll = self._polls.pop() if self._polls else self._new_poll()
        ready = poll.poll(milliseconds(remaining(deadline)))
        self._polls.append(poll)
        waker = self._waker
        if waker and (waker.fileno(), select.POLLIN) in ready and not self._closed:
            # Leave the eventfd readable after close(), so that all waiting threads see it.
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(waker.fileno())
        return bool(ready)

    def _make_waker(self) -> None:
        with self._lock:
            if self._waker is None and not self._closed:
                self._waker = owned(os.eventfd, 0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def _wake_one(self) -> None:
        if self._waker:
            os.eventfd_write(self._waker.fileno(), 1)

    def _new_poll(self) -> select.poll:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN | select.POLLRDHUP)
        if self._waker:
            poll.register(self._waker, select.POLLIN)
        return poll

    def _close_all(self) -> None:
        waker, self._waker = self._waker, None
        if waker:
            waker.close()
        self._close()
