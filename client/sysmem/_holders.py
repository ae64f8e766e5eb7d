"""Who still looks at a mapping: for the error that a with-block ends with when somebody does."""

from __future__ import annotations

import gc
import inspect
import mmap
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

#: Holders that are named.
MAX_NAMED = 4


def holders(mapped: mmap.mmap, view: memoryview) -> str:
    """The memoryviews and numpy arrays over `mapped`, `view` left out, and where they are, as far as can be found out.

    Where is a variable of a function that is being called, or the kind of object that has it. Looks at all objects.
    """
    names: dict[int, str] = {}
    places: dict[int, list[str]] = {}

    def note(held: Any, place: str) -> None:
        names[id(held)] = _name(held)
        places.setdefault(id(held), []).append(place)

    def counts(held: Any) -> bool:
        return held is not view and _looks_at(held, mapped)

    objects = gc.get_objects()
    for frame in _frames():
        variables = frame.f_locals
        for name, held in variables.items():
            if counts(held):
                note(held, f"'{name}' of {frame.f_code.co_qualname}()")
        if type(variables) is dict:
            # Until Python 3.12 this is a copy, which the frame keeps: not to be what keeps the mapping.
            variables.clear()
    for container in objects:
        for held in gc.get_referents(container):
            if counts(held):
                note(held, _place(container))
    found = [f"{names[key]} in {' and '.join(dict.fromkeys(places[key]))}" for key in names]
    # What is left are views that are in objects which Python can't look into.
    found = found or [_name(each) for each in objects if counts(each)]
    more = [f"{len(found) - MAX_NAMED} more"] if len(found) > MAX_NAMED else []
    return ", ".join(found[:MAX_NAMED] + more) or "an object that isn't known"


def _frames() -> Iterator[FrameType]:
    """The functions that are being called, in all threads, but for this package's; modules and classes don't count."""
    for frame in sys._current_frames().values():
        caller: FrameType | None = frame
        while caller is not None:
            own = caller.f_globals.get("__package__") == __package__
            if not own and caller.f_code.co_flags & inspect.CO_OPTIMIZED:
                yield caller
            caller = caller.f_back


def _looks_at(held: Any, mapped: mmap.mmap) -> bool:
    """Whether it is a memoryview of the mapping, or a numpy array over one."""
    while _is_array(held):
        held = held.base
    try:
        return type(held) is memoryview and held.obj is mapped
    except ValueError:  # released
        return False


def _is_array(held: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(held, numpy.ndarray)


def _name(held: Any) -> str:
    if _is_array(held):
        return f"a numpy array of shape {held.shape} and type {held.dtype}"
    return f"a memoryview of {held.nbytes} bytes"


def _place(container: Any) -> str:
    for name, module in tuple(sys.modules.items()):
        if container is getattr(module, "__dict__", None):
            return f"module {name}"
    return f"a {type(container).__qualname__}"
