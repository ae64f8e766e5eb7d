"""The clock of the daemon: CLOCK_MONOTONIC, and one trio task that makes all the calls that were asked for later."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from .ports import Log

#: A client chooses some deadlines; trio's own clock can't take the farthest of them.
_LONGEST_WAIT_SECONDS = 86_400.0
#: How many calls are made in a row.
_CALLS_AT_ONCE = 8
#: Cancelled timers that aren't worth sifting.
_FEW_CANCELLED = 64


@dataclass(slots=True)
class _Timer:
    #: None once it was called or cancelled.
    callback: Callable[[], None] | None


class TrioClock:
    """A :class:`sysmemd.ports.Clock`."""

    def __init__(self, log: Log, now: Callable[[], int] = time.monotonic_ns) -> None:
        """`now` tells the time in nanoseconds, at the pace of trio's clock."""
        self._log = log
        self._now = now
        #: Each with its deadline and a number that no other has, the earliest first.
        self._timers: list[tuple[int, int, _Timer]] = []
        self._numbers = itertools.count()
        self._earlier = trio.Event()
        self._cancelled = 0

    def now(self) -> int:
        """Nanoseconds on CLOCK_MONOTONIC."""
        return self._now()

    def call_at(self, deadline: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called once, from :meth:`run`; what is returned cancels that."""
        timer = _Timer(callback)
        heapq.heappush(self._timers, (deadline, next(self._numbers), timer))
        if self._timers[0][2] is timer:
            self._earlier.set()

        def cancel() -> None:
            if timer.callback is not None:
                timer.callback = None
                self._cancelled += 1
                self._sift()

        return cancel

    def _sift(self) -> None:
        """Forget cancelled timers once they are the greater part; most are cancelled long before their time."""
        if self._cancelled > _FEW_CANCELLED and self._cancelled * 2 > len(self._timers):
            self._timers = [each for each in self._timers if each[2].callback is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    async def run(self) -> None:
        """Make the calls when they are due, until cancelled. A call that raises is logged, and the others go on."""
        while True:
            self._earlier = trio.Event()
            self.call_due()
            seconds = self.seconds_left()
            if seconds is None:
                await self._earlier.wait()
                continue
            with trio.move_on_after(seconds):
                await self._earlier.wait()

    def seconds_left(self) -> float | None:
        """Return how long nothing is due, a day at most; None if nothing was asked for."""
        if not self._timers:
            return None
        return min(max(0, self._timers[0][0] - self._now()) / 1e9, _LONGEST_WAIT_SECONDS)

    def call_due(self) -> int:
        """Make calls that are due, and return how many. For whoever waits in place of :meth:`run`.

        If there are many, some are left: until these are called nothing is left of the time to wait.
        """
        if not self._timers:
            return 0
        called = 0
        now = self._now()
        while called < _CALLS_AT_ONCE and self._timers and self._timers[0][0] <= now:
            _, _, timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._cancelled -= 1
                continue
            called += 1
            try:
                callback()
            except Exception:
                self._log.error("a call that was asked for later failed", exc_info=True)
        return called
