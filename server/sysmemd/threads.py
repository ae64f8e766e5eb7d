"""Questions that may take as long as somebody else likes: threads ask them, so that the loop doesn't wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import trio

from .ports import Log

T = TypeVar("T")

#: Of several questions that are never answered, this many keep others waiting.
MAX_THREADS: Final = 2


class Ask(Protocol):
    """Asks a question."""

    def __call__(self, question: Callable[[], T], done: Callable[[T], None]) -> None:
        """Call `done` with what `question`, which doesn't raise, returns: before this returns, or later."""


def ask_here(question: Callable[[], T], done: Callable[[T], None]) -> None:
    """Ask at once, and wait for the answer."""
    done(question())


class Threads:
    """Threads under trio."""

    def __init__(self, nursery: trio.Nursery, log: Log) -> None:
        """Abandon questions that are not answered when `nursery` is cancelled."""
        self._nursery = nursery
        self._log = log
        self._limiter = trio.CapacityLimiter(MAX_THREADS)

    def ask(self, question: Callable[[], T], done: Callable[[T], None]) -> None:
        """See :class:`Ask`."""
        self._nursery.start_soon(self._ask, question, done)

    async def _ask(self, question: Callable[[], T], done: Callable[[T], None]) -> None:
        try:
            answer = await trio.to_thread.run_sync(
                question, abandon_on_cancel=True, limiter=self._limiter
            )
        except RuntimeError:  # the machine has no thread left
            answer = question()
        try:
            done(answer)
        except Exception as error:
            self._log.error("an answer could not be used", reason=repr(error), exc_info=True)
