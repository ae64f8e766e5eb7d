"""Work for inspectors, done in slices, so that nobody else waits for it (`spec/robustness.md`, Fair turns)."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any, Final, TypeVar

from ..ports import Clock

T = TypeVar("T")

#: How long the work goes on at a time, in nanoseconds.
SLICE_NS: Final = 1_000_000


class Slices:
    """Does a job: a generator that yields wherever it may be interrupted."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._cancel: Callable[[], None] = _nothing

    def run(self, steps: Generator[None, None, T], done: Callable[[T | Exception], None]) -> None:
        """Call `done`, later, with what `steps` return or raise. One job at a time."""
        self._cancel = self._clock.call_at(self._clock.now(), lambda: self._slice(steps, done))

    def close(self) -> None:
        """Give up the job."""
        self._cancel()

    def _slice(self, steps: Generator[None, None, Any], done: Callable[[Any], None]) -> None:
        until = time.monotonic_ns() + SLICE_NS
        try:
            while time.monotonic_ns() < until:
                next(steps)
        except StopIteration as stop:
            done(stop.value)
        except Exception as error:
            done(error)
        else:
            self.run(steps, done)


def _nothing() -> None:
    """There is no job."""
