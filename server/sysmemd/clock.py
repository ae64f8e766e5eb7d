"""The clock of the daemon: CLOCK_MONOTONIC, and one trio task that makes all the calls that were asked for later."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from .ports import Log

#: A client chooses some deadlines; trio's own clock can't take the farthest of them.
_LONGEST_WAIT_SECONDS = 86_400.0
#: Cancelled timers that aren't worth sifting.
_FEW_CANCELLED = 64


@dataclass(order=True, slots=True)
class _Timer:
    deadline: int
    number: int
    #: None once it was called or cancelled.
    callback: Callable[[], None] | None = field(compare=False)


class TrioClock:
    """A :class:`sysmemd.ports.Clock`."""

    def __init__(self, log: Log, now: Callable[[], int] = time.monotonic_ns) -> None:
        """`now` tells the time in nanoseconds, at the pace of trio's clock."""
        self._log = log
        self._now = now
        self._timers: list[_Timer] = []
        self._numbers = itertools.count()
        self._earlier = trio.Event()
        self._cancelled = 0

    def now(self) -> int:
        """Nanoseconds on CLOCK_MONOTONIC."""
        return self._now()

    def call_at(self, deadline: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Have `callback` called once, from :meth:`run`; what is returned cancels that."""
        timer = _Timer(deadline, next(self._numbers), callback)
        heapq.heappush(self._timers, timer)
        if self._timers[0] is timer:
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
            self._timers = [timer for timer in self._timers if timer.callback is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    async def run(self) -> None:
        """Make the calls when they are due, until cancelled. A call that raises is logged, and the others go on."""
        while True:
            self._earlier = trio.Event()
            self._call_due()
            if not self._timers:
                await self._earlier.wait()
                continue
            seconds = max(0, self._timers[0].deadline - self.now()) / 1e9
            with trio.move_on_after(min(seconds, _LONGEST_WAIT_SECONDS)):
                await self._earlier.wait()

    def _call_due(self) -> None:
        now = self.now()
        while self._timers and self._timers[0].deadline <= now:
            timer = heapq.heappop(self._timers)
            callback, timer.callback = timer.callback, None
            if callback is None:
                self._cancelled -= 1
                continue
            try:
                callback()
            except Exception:
                self._log.error("a call that was asked for later failed", exc_info=True)
