"""Shortens a sequence of events that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


def shrunk(items: Sequence[T], fails: Callable[[list[T]], bool], tries: int = 100) -> list[T]:
    """Return a shorter list of items that still fails, found in at most `tries` attempts.

    Parts of half the length are left out first, then parts of a quarter, and so on.
    """
    left = list(items)
    size = len(left) // 2
    while size and tries:
        start, shorter = 0, False
        while start < len(left) and tries:
            without = left[:start] + left[start + size :]
            tries -= 1
            if fails(without):
                left, shorter = without, True
            else:
                start += size
        size = min(size, len(left)) if shorter and size == 1 else size // 2
    return left
