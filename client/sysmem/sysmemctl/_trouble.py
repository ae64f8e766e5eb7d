"""The exception for a command that fails."""

from __future__ import annotations


class Trouble(Exception):
    """A command cannot be completed, or a check failed. The text has the reason; the exit status is 1."""
