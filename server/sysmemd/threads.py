"""Questions that may take as long as somebody else likes: threads ask them, so that the loop doesn't wait."""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from .ports import Log

T = TypeVar("T")

#: Of several questions that are never answered, this many keep others waiting.
MAX_THREADS: Final = 2


#: How long a thread waits before it tries again to wake the loop, in seconds.
_AGAIN_SECONDS: Final = 0.1


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
            thread = threading.Thread(target=self._work, args=(answered,), name="ask", daemon=True)
            try:
                thread.start()
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
