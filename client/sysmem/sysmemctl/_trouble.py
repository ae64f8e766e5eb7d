"""What keeps a command from being done."""

from __future__ import annotations


class Trouble(Exception):
    """A command can't be done, or a check failed. The text says why; the exit status is 1."""
