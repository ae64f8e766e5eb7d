"""Objects and descriptors that a program passes: what is wrong with them, in words."""

from __future__ import annotations

import os
from typing import Any

from sysmem_protocol.library import plain_int

#: The packages in which each face is written, as programs name them.
_FACES = {"sysmem._async": "sysmem", "sysmem._blocking": "sysmem.blocking"}


def named(kind: type) -> str:
    """Return a class as a program names it; of the client's own, with the face that it belongs to."""
    face = _FACES.get(kind.__module__.rpartition(".")[0])
    return kind.__name__ if face is None else f"{face}.{kind.__name__}"


def wrong_kind(value: object, expected: type) -> TypeError:
    """What to raise for an object that isn't of the kind that is expected, of the other face perhaps."""
    kind = type(value)
    problem = f"expected a {named(expected)}, not {named(kind)}"
    if kind.__name__ == expected.__name__:
        problem += ": an object can be used with its own face only"
    return TypeError(problem)


def descriptor(value: Any, kind: type | None = None) -> int:
    """Return a descriptor's number that a program passes, perhaps where it may pass a `kind` instead.

    Raises `TypeError` for what is no integer, and `ValueError` for a descriptor that isn't open.
    """
    number = plain_int(value)
    if not isinstance(number, int) or isinstance(number, bool):
        expected = "an int" if kind is None else f"a {named(kind)} or an int"
        problem = f"expected {expected}, not {named(type(value))}"
        if kind is None and hasattr(value, "detach"):
            problem += "; its detach() gives the descriptor and the ownership of it"
        raise TypeError(problem)
    if number < 0:
        raise ValueError(f"{number} is no descriptor")
    try:
        os.fstat(number)
    except OSError as error:
        raise ValueError(f"descriptor {number} isn't open") from error
    return number
