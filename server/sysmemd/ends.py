"""Ends that nothing stops: what has to be let go of is let go of, whatever fails on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def every(steps: Iterable[Callable[[], object]]) -> None:
    """Take every step, also after one that fails. Raises what the first of those raised, when all were taken."""
    first: Exception | None = None
    for step in steps:
        try:
            step()
        except Exception as error:
            first = first or error
    if first is not None:
        raise first
