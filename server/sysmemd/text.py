"""Text that contains clients' strings, for logs and reports."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return a client's text on one line, with non-printable characters escaped."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


class Block(str):
    """Text of several lines by the daemon itself. Clients' strings in it are :func:`printable`.

    The log shows it as lines, but shows other texts, which may contain anything, on one line.
    """

    __slots__ = ()
