"""What encoding and decoding have in common: answers, errors that say where, plain numbers."""

from __future__ import annotations

from ..library import Enumeration, Integer, WireType

#: The key of a fallible method's success, and of its error.
SUCCESS = 1
ERROR = 2


class Located(Exception):
    """An error at a place in a table."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path

    def within(self, step: str) -> None:
        """Note that the error's table or vector is itself at `step`."""
        self.path = step + self.path

    def __str__(self) -> str:
        return f"${self.path}: {self.problem}"


class DecodeError(Located, ValueError):
    """The body isn't what the method's table says; the channel it came on must close."""


class EncodeValueError(Located, ValueError):
    """A value is outside what its field can carry. Nothing was sent."""


class EncodeTypeError(Located, TypeError):
    """A value is of another type than its field. Nothing was sent."""


def plain_range(wire: WireType) -> tuple[int, int]:
    """Return which integers are themselves on the wire: none if the type isn't a number."""
    match wire:
        case Integer():
            return wire.minimum, wire.maximum
        case Enumeration():
            return 0, (1 << wire.bits) - 1
    return 0, -1
