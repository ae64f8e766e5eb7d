"""Checks of objects and descriptors that a program passes, with error texts."""

from __future__ import annotations

import os
from typing import Any

from sysmem_protocol.library import plain_int

#: The packages that implement the faces, and the names by which programs import them.
_FACES = {"sysmem._async": "sysmem", "sysmem._blocking": "sysmem.blocking"}


def named(kind: type) -> str:
    """Return a class's name as programs use it, with the face if it is one of the client's classes."""
    face = _FACES.get(kind.__module__.rpartition(".")[0])
    return kind.__name__ if face is None else f"{face}.{kind.__name__}"


def wrong_kind(value: object, expected: type) -> TypeError:
    """Return the exception for an object of the wrong class, such as one of the other face."""
    kind = type(value)
    problem = f"expected a {named(expected)}, not {named(kind)}"
    if kind.__name__ == expected.__name__:
        problem += ": an object can only be used with the face that created it"
    return TypeError(problem)


def descriptor(value: Any, kind: type | None = None) -> int:
    """Return the number of a descriptor that a program passes, where it might instead pass an object of class `kind`.

    Raises `TypeError` if the value is not an integer, and `ValueError` if the descriptor is not open.
    """
    number = plain_int(value)
    if not isinstance(number, int) or isinstance(number, bool):
        expected = "an int" if kind is None else f"a {named(kind)} or an int"
        problem = f"expected {expected}, not {named(type(value))}"
        if kind is None and hasattr(value, "detach"):
            problem += "; its detach() returns the descriptor and gives up ownership"
        raise TypeError(problem)
    if number < 0:
        raise ValueError(f"{number} is not a descriptor")
    try:
        os.fstat(number)
    except OSError as error:
        raise ValueError(f"descriptor {number} is not open") from error
    return number
