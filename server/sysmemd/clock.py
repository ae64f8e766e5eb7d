"""The daemon's clock: CLOCK_MONOTONIC, and one trio task that makes all delayed calls."""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass

import trio

from .ports import Log

#: Clients choose some deadlines. Trio's own clock cannot represent the farthest ones.
_LONGEST_WAIT_SECONDS = 86_400.0
#: The maximum number of consecutive calls.
_CALLS_AT_ONCE = 8
#: The number of cancelled timers that are not worth a cleanup.
_FEW_CANCELLED = 64


@dataclass(slots=True)
class _Timer:
    #: None after the call or its cancellation.
    callback: Callable[[], None] | None


class TrioClock:
    """A :class:`sysmemd.ports.Clock`."""

    def __init__(self, log: Log, now: Callable[[], int] = time.monotonic_ns) -> None:
        """`now` returns the time in nanoseconds, at the rate of trio's clock."""
        self._log = log
        self._now = now
        #: Each with its deadline and a unique number, earliest first.
        self._timers: list[tuple[int, int, _Timer]] = []
        self._numbers = itertools.count()
        self._earlier = trio.Event()
        self._cancelled = 0

    def now(self) -> int:
        """Return the time on CLOCK_MONOTONIC in nanoseconds."""
        return self._now()

    def call_at(self, deadline: int, callback: Callable[[], None]) -> Callable[[], None]:
        """Call `callback` once at `deadline`, from :meth:`run`. The returned function cancels the call."""
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
        """Remove cancelled timers once they are the majority. Most timers are cancelled long before their time."""
        if self._cancelled > _FEW_CANCELLED and self._cancelled * 2 > len(self._timers):
            self._timers = [each for each in self._timers if each[2].callback is not None]
            heapq.heapify(self._timers)
            self._cancelled = 0

    async def run(self) -> None:
        """Make the calls when they are due, until cancelled. A call that raises is logged, and the others continue."""
        while True:
            self._earlier = trio.Event()
            self.call_due()
            seconds = self.seconds_left()
            if seconds is None:
                await self._earlier.wait()
                continue
            await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        """Wait until there is an earlier call, at most this long."""
        with trio.move_on_after(seconds):
            await self._earlier.wait()

    def seconds_left(self) -> float | None:
        """Return the time until the next call, at most a day; None if there is no call."""
        if not self._timers:
            return None
        return min(max(0, self._timers[0][0] - self._now()) / 1e9, _LONGEST_WAIT_SECONDS)

    def call_due(self) -> int:
        """Make due calls, and return their number. For a loop that waits in place of :meth:`run`.

        If there are many, some remain. In that case the time until the next call is 0.
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
                self._log.error("a scheduled callback failed", exc_info=True)
        return called
