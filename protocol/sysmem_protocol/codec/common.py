"""The common parts of encoding and decoding: responses, errors with their place, plain numbers."""

from __future__ import annotations

from ..library import Enumeration, Integer, WireType

#: The keys of the result and of the error in the response of a fallible method.
SUCCESS = 1
ERROR = 2


class Located(Exception):
    """An error at a place in a table."""

    def __init__(self, problem: str, path: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.path = path

    def within(self, step: str) -> None:
        """Prepend `step`, the place of the error's table or vector in the one around it."""
        self.path = step + self.path

    def __str__(self) -> str:
        return f"${self.path}: {self.problem}"


class DecodeError(Located, ValueError):
    """The body does not match the method's table. The channel that it arrived on must be closed."""


class EncodeValueError(Located, ValueError):
    """A value is outside its field's range. Nothing was sent."""


class EncodeTypeError(Located, TypeError):
    """A value has another type than its field. Nothing was sent."""


def plain_range(wire: WireType) -> tuple[int, int]:
    """Return the range of integers that are encoded as themselves; an empty one if the type is not a number."""
    match wire:
        case Integer():
            return wire.minimum, wire.maximum
        case Enumeration():
            return 0, (1 << wire.bits) - 1
    return 0, -1
