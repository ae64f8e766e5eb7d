"""Threads, for what may take as long as somebody else likes: the loop doesn't wait for it.

:func:`start` starts one, a :class:`Pool` does jobs in some, :class:`Threads` ask questions in some.
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

#: Of several questions that are never answered, this many keep others waiting.
MAX_THREADS: Final = 2
#: How long the last thread of a pool stays when there is nothing to do, in seconds.
IDLE_SECONDS: Final = 5.0
#: How long a thread waits before it tries again to wake the loop, in seconds.
_AGAIN_SECONDS: Final = 0.1


class _Life:
    """Ends with the thread that has it."""


def start(work: Callable[[], object]) -> None:
    """Start a thread. Raises `RuntimeError` if the machine has none left, or no memory for the thread's first call.

    :class:`threading.Thread` waits for ever for a thread that dies for want of memory before it says that it runs.
    """
    told: SimpleQueue[weakref.ref[_Life] | None] = SimpleQueue()
    life = _Life()
    end = weakref.ref(
        life, told.put
    )  # not a function in Python, which would need memory to be called
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
    """Threads that do jobs: one, and others where that one is stuck. They go when they aren't needed any more."""

    def __init__(self, most: int, failed: Callable[[Exception], None]) -> None:
        """There are at most so many threads. One of them calls `failed` with what a job raises."""
        self._most = most
        self._failed = failed
        #: Guards what follows, and tells that it has changed.
        self._changed = threading.Condition()
        self._jobs: deque[Callable[[], object]] = deque()
        self._ending = False
        #: Whether a thread waits for jobs; one is enough.
        self._has_idle = False
        #: How many threads there are.
        self.threads = 0

    @property
    def is_behind(self) -> bool:
        """Whether jobs wait."""
        return bool(self._jobs)

    def do(self, job: Callable[[], object]) -> bool:
        """Have a thread do a job. Returns False if there is none and the machine has none left."""
        with self._changed:
            if not self.threads and not self._add():
                return False
            self._jobs.append(job)
            self._changed.notify_all()
        return True

    def help(self) -> bool:
        """Add a thread if the machine has one left. Returns False if there are as many as there may be."""
        with self._changed:
            if self.threads >= self._most:
                return False
            self._add()
        return True

    def end(self, seconds: float | None = None) -> None:
        """Wait until all jobs are done and the threads are gone, at most so long. To be called last."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self.threads, seconds)

    def _add(self) -> bool:
        """Add a thread. The lock is held."""
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
        """Return what is to be done next; None if this thread isn't needed any more, and is no longer counted."""
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
    """Make an eventfd readable, from a thread: whoever waits for it mustn't be left waiting."""
    while True:
        try:
            os.eventfd_write(eventfd, 1)
        except OSError:
            time.sleep(_AGAIN_SECONDS)
        else:
            return


class Ask(Protocol):
    """Asks a question."""

    def __call__(self, question: Callable[[], T], done: Callable[[T], None]) -> None:
        """Call `done` with what `question`, which doesn't raise, returns: before this returns, or later."""


def ask_here(question: Callable[[], T], done: Callable[[T], None]) -> None:
    """Ask at once, and wait for the answer."""
    done(question())


class Threads:
    """A thread for each question that is being asked.

    The owner waits until :meth:`fileno` is readable and then calls :meth:`take`. That doesn't go by trio's own threads,
    because a wake-up of the loop that is lost when the kernel is short of memory would be an answer that never comes.
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
        """Readable when there are answers; -1 once closed."""
        return self._news

    def close(self) -> None:
        """Abandon the questions that aren't answered. Idempotent."""
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
        """Hand out the answers that are there. Raises `OSError` when the kernel doesn't say so; they stay then."""
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
            except RuntimeError:  # the machine has none left
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
            self._log.error("an answer could not be used", reason=repr(error), exc_info=True)
