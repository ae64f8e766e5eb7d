"""The warnings that the allocation of a collection is taking a while.

See SetDebugTimeoutLogDeadline in `docs/spec/protocol.md`, "Node".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..ports import Clock

#: Nanoseconds from a collection's creation to the first warning, unless a client moves it.
FIRST_WARNING_AFTER: Final = 5 * 10**9
#: Nanoseconds from the first warning to the second, which is the last.
SECOND_WARNING_AFTER: Final = 30 * 10**9


def _silence(_: float) -> None:
    """Do nothing: there are no more warnings."""


class Overdue:
    """The timer of one collection's two warnings."""

    __slots__ = ("_cancel", "_clock", "_created", "_first_is_due", "_warn")

    def __init__(self, clock: Clock, warn: Callable[[float], None]) -> None:
        """Start the timer. `warn` is called with the seconds since creation, at most twice."""
        self._clock = clock
        self._warn = warn
        self._created = clock.now()
        self._first_is_due = True
        self._cancel: Callable[[], None] | None = None
        self._arm(self._created + FIRST_WARNING_AFTER)

    def move(self, deadline: int) -> None:
        """Set the time of the first warning. No effect once it was given or the timer was cancelled."""
        if self._first_is_due and self._cancel is not None:
            self._cancel()
            self._arm(deadline)

    def cancel(self) -> None:
        """Cancel the warnings, because the allocation has finished or the collection is gone."""
        if self._cancel is not None:
            self._cancel()
            self._cancel = None
        self._warn = _silence

    def _arm(self, deadline: int) -> None:
        self._cancel = self._clock.call_at(deadline, self._due)

    def _due(self) -> None:
        self._cancel = None
        now = self._clock.now()
        if self._first_is_due:
            self._first_is_due = False
            self._arm(now + SECOND_WARNING_AFTER)
        self._warn((now - self._created) / 10**9)
