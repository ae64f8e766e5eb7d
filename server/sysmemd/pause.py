"""Pauses: the points at which long work lets others continue (`docs/spec/robustness.md`, "Fair turns").

Work calls :func:`give_way` at least every few hundred microseconds. If the work is done in slices (:mod:`.turns`) and
its slice is over, that call returns in a later slice. Otherwise, as in tests of the pure core, it does nothing.

State that others may see in between must be consistent, or be protected: a collection is busy, a connection is being
processed. Other work that needs protected state calls :func:`wait_for`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Holder(Protocol):
    """An object that other work sometimes has to wait for."""

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when the object is idle: now or later."""


class Sliced(Protocol):
    """Work that is done in slices."""

    def give_way(self) -> None:
        """Return immediately, or, if the slice is over, in a later one."""

    def wait_for(self, holder: Holder) -> None:
        """Return when `holder` is idle."""


#: The work that runs in the current slice. It is set at the beginning and the end of a slice.
current: Sliced | None = None


def give_way() -> None:
    """Let other work continue if the slice of this work is over."""
    if current is not None:
        current.give_way()


def giving_way(items: Iterable[T], every: int = 16) -> Iterator[T]:
    """Yield `items`, and give way after each `every` items."""
    for number, item in enumerate(items, 1):
        yield item
        if not number % every:
            give_way()


def wait_for(holder: Holder) -> None:
    """Let other work continue until `holder` is idle. Only work in slices can find a holder that is not idle."""
    assert current is not None, (
        f"{holder!r} is not idle, and outside of slices it cannot become idle"
    )
    current.wait_for(holder)


def wait_while(held_by: Callable[[], Holder | None]) -> None:
    """Let other work continue until `held_by` returns None."""
    while (holder := held_by()) is not None:
        wait_for(holder)
