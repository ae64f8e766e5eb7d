"""Threads for calls that may take arbitrarily long, so that the loop does not wait for them.

:func:`start` starts a thread, a :class:`Pool` runs jobs in several, and :class:`Threads` ask questions in several.
"""

from __future__ import annotations

import _thread
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeVar

from .ports import Log

T = TypeVar("T")

#: The number of questions that are never answered that keeps others waiting.
MAX_THREADS: Final = 2
#: How long the last thread of a pool stays idle before it ends, in seconds.
IDLE_SECONDS: Final = 5.0
#: How long a thread waits before it tries again to wake the loop, in seconds.
_AGAIN_SECONDS: Final = 0.1


class _Life:
    """An object that is deleted with the thread that has it."""


def start(work: Callable[[], object]) -> None:
    """Start a thread. Raises `RuntimeError` if the machine has none left, or no memory for the thread's first call.

    :class:`threading.Thread` would wait forever for a thread that dies because of missing memory before it has started.
    """
    told: SimpleQueue[weakref.ref[_Life] | None] = SimpleQueue()
    life = _Life()
    end = weakref.ref(life, told.put)  # not a Python function, because calling one needs memory
    try:
        _thread.start_new_thread(_begin, (work, told, life))
    except MemoryError:
        raise RuntimeError("there is no memory for a thread") from None
    del life
    if told.get() is end:
        raise RuntimeError("there is no memory for a thread")


def _begin(work: Callable[[], object], told: SimpleQueue[Any], life: _Life) -> None:
    told.put(None)
    work()


class Pool:
    """Threads that run jobs: one, and more while it is stuck. Idle threads end."""

    def __init__(self, most: int, failed: Callable[[Exception], None]) -> None:
        """Use at most `most` threads. One of them calls `failed` with the exception of a job."""
        self._most = most
        self._failed = failed
        #: Guards the following attributes, and signals their changes.
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], object]] = deque()
        self._ending = False
        #: Whether a thread waits for jobs; one is enough.
        self._has_idle = False
        #: The number of threads.
        self.threads = 0

    @property
    def is_behind(self) -> bool:
        """Whether jobs are queued."""
        return bool(self._jobs)

    def do(self, job: Callable[[], object]) -> bool:
        """Run a job in a thread. Return False if there is no thread and the machine has none left."""
        with self._changed:
            if not self.threads and not self._add():
                return False
            self._jobs.append(job)
            self._changed.notify_all()
        return True

    def help(self) -> bool:
        """Add a thread if possible. Return False if there is already the maximum number."""
        with self._changed:
            if self.threads >= self._most:
                return False
            self._add()
        return True

    def end(self, seconds: float | None = None) -> None:
        """Wait until all jobs are done and the threads have ended, at most this long. Must be called last."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self.threads, seconds)

    def _add(self) -> bool:
        """Add a thread. The caller holds the lock."""
        try:
            start(self._work)
        except RuntimeError:
            return False
        self.threads += 1
        return True

    def _work(self) -> None:
        try:
            while (job := self._next()) is not None:
                try:
                    job()
                except Exception as error:
                    self._failed(error)
        except BaseException:  # there was no memory for it
            with self._changed:
                self._leave()
            raise

    def _next(self) -> Callable[[], object] | None:
        """Return the next job; None if this thread is no longer needed, and is no longer counted."""
        with self._changed:
            if not self._has_idle:
                self._has_idle = True
                try:
                    self._changed.wait_for(lambda: self._jobs or self._ending, IDLE_SECONDS)
                finally:
                    self._has_idle = False
            if self._jobs:
                return self._jobs.popleft()
            self._leave()
            return None

    def _leave(self) -> None:
        self.threads -= 1
        self._changed.notify_all()


def ring(eventfd: int) -> None:
    """Make an eventfd readable from a thread. Retry until it succeeds, because the loop depends on it."""
    while True:
        try:
            os.eventfd_write(eventfd, 1)
        except OSError:
            time.sleep(_AGAIN_SECONDS)
        else:
            return


class Ask(Protocol):
    """A function that asks a question."""

    def __call__(self, question: Callable[[], T], done: Callable[[T], None]) -> None:
        """Call `done` with the result of `question`, which must not raise: before this returns, or later."""


def ask_here(question: Callable[[], T], done: Callable[[T], None]) -> None:
    """Ask immediately, and wait for the answer."""
    done(question())


class Threads:
    """A thread for each running question.

    The owner waits until :meth:`fileno` is readable and then calls :meth:`take`. It does not use trio's threads,
    because if the kernel is short of memory, a wake-up of trio's loop can be lost, and with it the answer.
    """

    def __init__(self, log: Log) -> None:
        """Raises `OSError` if the process has no descriptor left."""
        self._log = log
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._waiting: deque[Callable[[], Callable[[], None]]] = deque()
        self._answers: deque[Callable[[], None]] = deque()
        self._running = 0
        #: Guards the descriptor against a thread whose question is answered after the end.
        self._lock = threading.Lock()

    def fileno(self) -> int:
        """Return a descriptor that is readable when there are answers, or -1 after close."""
        return self._news

    def close(self) -> None:
        """Abandon unanswered questions. Idempotent."""
        self._waiting.clear()
        self._answers.clear()
        with self._lock:
            news, self._news = self._news, -1
        if news >= 0:
            os.close(news)

    def ask(self, question: Callable[[], T], done: Callable[[T], None]) -> None:
        """See :class:`Ask`."""

        def answered() -> Callable[[], None]:
            return partial(done, question())

        self._waiting.append(answered)
        self._start()

    def take(self) -> None:
        """Pass the available answers on. Raises `OSError` if the kernel cannot report them; they are not lost."""
        os.eventfd_read(self._news)
        while self._answers:
            self._running -= 1
            self._hand_out(self._answers.popleft())
        self._start()

    def _start(self) -> None:
        while self._waiting and self._running < MAX_THREADS:
            answered = self._waiting.popleft()
            try:
                start(partial(self._work, answered))
            except RuntimeError:  # the machine has no thread left
                self._hand_out(answered())
            else:
                self._running += 1

    def _work(self, answered: Callable[[], Callable[[], None]]) -> None:
        self._answers.append(answered())
        with self._lock:
            if self._news >= 0:
                ring(self._news)

    def _hand_out(self, answer: Callable[[], Any]) -> None:
        try:
            answer()
        except Exception as error:
            self._log.error(
                "an error occurred while a worker thread's result was processed",
                reason=repr(error),
                exc_info=True,
            )
