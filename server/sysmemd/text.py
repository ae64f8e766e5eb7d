"""Text that holds what clients said, for logs and reports."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return a client's text on one line, whatever it holds: what isn't printable is escaped."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


class Block(str):
    """Text of several lines that are ours: whatever clients said is :func:`printable` in it.

    The log shows it as lines where it shows other texts, which might hold anything, on one line.
    """

    __slots__ = ()
