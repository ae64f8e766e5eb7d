"""Pauses: where work that may take long lets others go on (`docs/spec/robustness.md`, "Fair turns").

Work calls :func:`give_way` at least every few hundred microseconds. Where it is done in slices (:mod:`.turns`) and its
slice is over, that call returns in a later one. Elsewhere, as in tests of the pure core, it does nothing.

What others may see in between must be consistent, or be kept from them: a collection is busy, a connection is being
processed. Whoever meets such a thing on the way calls :func:`wait_for`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Holder(Protocol):
    """Something that others have to wait for now and then."""

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when nothing has to wait any more: now or later."""


class Sliced(Protocol):
    """Work that is done in slices."""

    def give_way(self) -> None:
        """Return at once, or, if the slice is over, in a later one."""

    def wait_for(self, holder: Holder) -> None:
        """Return when `holder` is idle."""


#: The work whose slice it is now; set by whoever begins or ends a slice.
current: Sliced | None = None


def give_way() -> None:
    """Let others go on if the slice of this work is over."""
    if current is not None:
        current.give_way()


def giving_way(items: Iterable[T], every: int = 16) -> Iterator[T]:
    """Yield `items`, and give way after each of so many."""
    for number, item in enumerate(items, 1):
        yield item
        if not number % every:
            give_way()


def wait_for(holder: Holder) -> None:
    """Let others go on until `holder` is idle. Only work that is done in slices can meet one that is not."""
    assert current is not None, f"{holder!r} is not idle, and nobody can make it so"
    current.wait_for(holder)


def wait_while(held_by: Callable[[], Holder | None]) -> None:
    """Let others go on until `held_by` returns nobody."""
    while (holder := held_by()) is not None:
        wait_for(holder)
