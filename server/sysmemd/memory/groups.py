"""Work on many objects, on some at a time (`docs/spec/robustness.md`, "Fair turns")."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, TypeAlias

from sysmemd.ends import every
from sysmemd.ports import Clock

_Step: TypeAlias = Callable[[], object]
#: How many steps are taken in a row.
_AT_ONCE: Final = 16


class Groups:
    """Takes steps in groups, between which the loop does other work."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        #: What is left of each call of :meth:`take`; they take turns.
        self._left: deque[Iterator[_Step]] = deque()
        self._cancel: Callable[[], None] | None = None

    def take(self, steps: Iterable[_Step]) -> None:
        """Take the first steps now, and the others soon, also if one of them raises."""
        self._take_some(iter(steps))

    def finish(self) -> None:
        """Take the steps that are left, and those that they add, for the daemon's end."""
        try:
            every(self._rest())
        finally:
            if self._cancel is not None:
                self._cancel()

    def _rest(self) -> Iterator[_Step]:
        while self._left:
            yield from self._left.popleft()

    def _take_some(self, left: Iterator[_Step]) -> None:
        some = list(islice(left, _AT_ONCE))
        if len(some) == _AT_ONCE:
            self._left.append(left)
        if self._left and self._cancel is None:
            self._cancel = self._clock.call_at(self._clock.now(), self._go_on)
        every(some)

    def _go_on(self) -> None:
        self._cancel = None
        self._take_some(self._left.popleft())
