"""Who works out attempts to allocate: the loop if that is quickly done, else a thread, lest other clients wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import trio

from .ports import Log

T = TypeVar("T")

#: How long a thread that computes lets the loop wait after each of its system calls, for all of those give the
#: interpreter away. Python's own 5 ms would make a second of a request that takes 200 of them.
SWITCH_SECONDS: Final = 0.0005
#: What the loop does itself, in microseconds as `tree/effort.py` estimates them if all goes badly; mostly it is far
#: less. 10 ms is what others may well wait for, and a negotiation of a few is done without a thread.
INLINE_COST: Final = 10_000
#: Two, so that one that takes seconds doesn't keep all others waiting; not more, for every one that computes makes the
#: loop wait for its turn.
THREADS: Final = 2


class ThreadWorker:
    """A :class:`sysmemd.tree.Worker` under trio."""

    def __init__(self, nursery: trio.Nursery, log: Log) -> None:
        """What is under way when `nursery` is cancelled is abandoned: nobody hears of it any more."""
        self._nursery = nursery
        self._log = log
        self._limiter = trio.CapacityLimiter(THREADS)

    def run(self, work: Callable[[], T], done: Callable[[T], None], cost: int) -> None:
        """See :class:`sysmemd.tree.Worker`."""
        if cost <= INLINE_COST:
            done(work())
        else:
            self._nursery.start_soon(self._run, work, done)

    async def _run(self, work: Callable[[], T], done: Callable[[T], None]) -> None:
        try:
            result = await trio.to_thread.run_sync(
                work, abandon_on_cancel=True, limiter=self._limiter
            )
        except RuntimeError as error:  # the machine has no thread left
            self._log.warning("an attempt holds up all clients", reason=str(error))
            result = work()
        try:
            done(result)
        except Exception as error:
            self._log.error("an attempt could not be concluded", reason=repr(error), exc_info=True)
