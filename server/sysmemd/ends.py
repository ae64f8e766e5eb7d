"""Reliable cleanup: all steps are taken, even if some of them fail."""

from __future__ import annotations

from collections.abc import Callable, Iterable


def every(steps: Iterable[Callable[[], object]]) -> None:
    """Take every step, even after a failure. Then raise the first exception, if there was one."""
    first: Exception | None = None
    for step in steps:
        try:
            step()
        except Exception as error:
            first = first or error
    if first is not None:
        raise first
