"""Threads that wait for something that a descriptor tells."""

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
    """Threads that try something again each time a descriptor is readable."""

    __slots__ = ("_close", "_closed", "_fd", "_lock", "_polls", "_process", "_waiting", "_waker")

    def __init__(self, fd: int, close: Callable[[], None]) -> None:
        """Wait for `fd`, and call `close` after :meth:`close`, once or twice, when nobody waits any more."""
        self._fd = fd
        self._close = close
        self._closed = False
        #: A signal handler may close what the thread that it interrupted waits for.
        self._lock = threading.RLock()
        self._process = this_process()
        #: The threads in a wait, by something of each wait's own.
        self._waiting: dict[object, int] = {}
        #: What wakes those who wait; None until somebody does.
        self._waker: Cell | None = None
        #: What nobody polls with now.
        self._polls: list[select.poll] = []

    def until(
        self, attempt: Callable[[], T | None], timeout: float | None, late: Callable[[], str]
    ) -> T:
        """Return what `attempt()` does as soon as that isn't None; it is called each time the descriptor is readable.

        What it raises ends the waiting.

        Raises:
            TimeoutError: `timeout` seconds are over; `late()` is the text.
        """
        deadline = deadline_after(timeout)
        if self._waker is None:
            self._make_waker()
        me = object()
        try:
            # First of all: another thread must know that this one may wait, and wake it if it has left something.
            self._waiting[me] = threading.get_ident()
            while (found := attempt()) is None:
                if not self._wait(deadline):
                    raise TimeoutError(late())
            return found
        finally:
            self._leave(me)

    def wake(self) -> None:
        """Let another thread that waits, if any, try again though the descriptor tells nothing."""
        if self._waiting:
            me = threading.get_ident()
            with self._lock:
                if any(thread != me for thread in tuple(self._waiting.values())):
                    self._wake_one()

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
        """Wait until the descriptor is readable, or this is woken or closed; False when the time is over."""
        poll = self._polls.pop() if self._polls else self._new_poll()
        ready = poll.poll(milliseconds(remaining(deadline)))
        self._polls.append(poll)
        waker = self._waker
        if waker and (waker.fileno(), select.POLLIN) in ready and not self._closed:
            # When it is closed, all who wait are to see it.
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
