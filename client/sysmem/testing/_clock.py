"""The time of a daemon in the test's own loop."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from time import monotonic_ns
from typing import Final

import trio

from sysmemd.clock import TrioClock
from sysmemd.ports import Log

#: How often a clock is read that does not report when the test changes it, in seconds.
_LOOK_SECONDS: Final = 0.005


def time_of(clock: trio.abc.Clock) -> Callable[[], int]:
    """Return a clock's time in nanoseconds, on the scale of CLOCK_MONOTONIC, which clients' deadlines use."""
    beginning, origin = clock.current_time(), monotonic_ns()
    return lambda: origin + round((clock.current_time() - beginning) * 1e9)


def is_virtual(clock: trio.abc.Clock) -> bool:
    """Return whether the clock is a `MockClock`."""
    from trio.testing import MockClock  # imports pytest if it is installed

    return isinstance(clock, MockClock)


class OtherClock(TrioClock):
    """A daemon's clock that is not the loop's: the daemon's time passes in another way than the test's."""

    def __init__(self, log: Log, clock: trio.abc.Clock) -> None:
        """Use a clock of trio that no loop uses."""
        super().__init__(log, time_of(clock))
        self._clock = clock

    async def _sleep(self, seconds: float) -> None:
        from trio.testing import wait_all_tasks_blocked

        end = self._clock.current_time() + seconds
        # Other tasks run between calls even if the next ones are due already.
        await trio.lowlevel.checkpoint()
        idle: float = getattr(self._clock, "autojump_threshold", inf)
        while not self._earlier.is_set() and (left := end - self._clock.current_time()) > 0:
            if idle < inf:
                await wait_all_tasks_blocked(idle)
                if not self._earlier.is_set():
                    self._clock.jump(left)  # type: ignore[attr-defined]
            else:
                with trio.move_on_after(
                    min(_LOOK_SECONDS, self._clock.deadline_to_sleep_time(end))
                ):
                    await self._earlier.wait()
