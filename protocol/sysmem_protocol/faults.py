"""The names of methods and errors that a test gives with the faults that it injects into a daemon."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Mapping
from typing import Final, TypeVar

from .explained import Allocator
from .inspector import Inspector
from .rendezvous import Rendezvous
from .sysmem2 import BufferCollection, BufferCollectionToken, BufferCollectionTokenGroup, Error

_T = TypeVar("_T")
_INTERFACES: Final = (
    Allocator,
    BufferCollection,
    BufferCollectionToken,
    BufferCollectionTokenGroup,
    Inspector,
    Rendezvous,
)
#: All methods that a client can call. A composed method has a name for each protocol, and the one of all: `Node.Sync`.
METHODS: Final = {
    name: name
    for each in _INTERFACES
    for method in each.methods.values()
    for name in (str(method), f"{each.__name__}.{method.wire_name}")
}
_ERRORS: Final = {error.name: error for error in Error}
#: Also second names of the same number, such as EWOULDBLOCK, which `errno.errorcode` doesn't have.
_NUMBERS: Final[dict[str, int]] = {
    name: number for name, number in vars(errno).items() if name.startswith("E")
}


def method_named(name: str) -> str:
    """Return a method's name without the library, which may precede it. Raises `ValueError` for an unknown name."""
    return _named("method", name.rpartition("/")[2], METHODS)


def error_named(given: Error | str) -> Error:
    """Return the error with this name. Raises `ValueError` for an unknown name."""
    return _named("error", given, _ERRORS) if isinstance(given, str) else Error(given)


def errno_named(given: int | str) -> int:
    """Return the number of the system's error with this name. Raises `ValueError` for an unknown name."""
    return _named("errno", given, _NUMBERS) if isinstance(given, str) else given


def _named(kind: str, name: str, known: Mapping[str, _T]) -> _T:
    if name not in known:
        near = ", ".join(difflib.get_close_matches(name, known, cutoff=0))
        raise ValueError(f"there is no {kind} {name!r}; similar names: {near}")
    return known[name]
