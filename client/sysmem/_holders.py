"""Who still looks at a mapping: for the error that a with-block ends with when somebody does."""

from __future__ import annotations

import gc
import inspect
import mmap
import sys
from collections.abc import Iterator
from types import FrameType, ModuleType, TracebackType
from typing import Any

#: Holders that are named.
MAX_NAMED = 4
#: The frame's to its copy of its variables, this function's, and that of whoever counts them.
_REFERENCES_TO_OURS = 3


def holders(mapped: mmap.mmap, view: memoryview, traceback: TracebackType | None) -> str:
    """The memoryviews and numpy arrays over `mapped`, `view` left out, and where they are, as far as can be found out.

    Where is a variable of a function that is being called, or the kind of object that has it. To look at all objects
    takes time, up to seconds in a large process; with the `traceback` of an exception on its way, which isn't about
    this, only variables are looked at, also those of the functions that it has ended.
    """
    array = _variables(sys.modules.get("numpy")).get("ndarray")
    names: dict[int, str] = {}
    places: dict[int, list[str]] = {}

    def note(held: Any, place: str) -> None:
        names[id(held)] = _name(held)
        places.setdefault(id(held), []).append(place)

    def counts(held: Any) -> bool:
        return held is not view and _looks_at(held, mapped, array)

    objects = gc.get_objects() if traceback is None else []
    for frame in _frames(traceback):
        variables = frame.f_locals
        counted = {name: held for name, held in tuple(variables.items()) if counts(held)}
        for name, held in counted.items():
            note(held, f"'{name}' of {frame.f_code.co_qualname}()")
        if type(variables) is dict:
            # Until Python 3.12 this is a copy that the frame keeps: not to be what keeps the mapping, or anything else.
            # It may be what locals() returned, too; then no more goes than has to.
            is_ours = sys.getrefcount(variables) <= _REFERENCES_TO_OURS
            for name in tuple(variables if is_ours else counted):
                variables.pop(name, None)
    for container in objects:
        for held in gc.get_referents(container):
            if counts(held):
                note(held, _place(container))
    found = [f"{names[key]} in {' and '.join(dict.fromkeys(places[key]))}" for key in names]
    # What is left are views that are in objects which Python can't look into.
    found = found or [_name(each) for each in objects if counts(each)]
    more = [f"{len(found) - MAX_NAMED} more"] if len(found) > MAX_NAMED else []
    return ", ".join(found[:MAX_NAMED] + more) or "an object that isn't known"


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    """Yield the functions that are being called, in all threads, and those that an exception has ended.

    But for this package's; modules and classes don't count.
    """
    for frame in sys._current_frames().values():
        caller: FrameType | None = frame
        while caller is not None:
            if _is_function(caller):
                yield caller
            caller = caller.f_back
    del frame  # the last of them is this function's own
    ended = traceback and traceback.tb_next  # the first has the with-block, and is being called
    while ended is not None:
        if _is_function(ended.tb_frame):
            yield ended.tb_frame
        ended = ended.tb_next


def _is_function(frame: FrameType) -> bool:
    own = frame.f_globals.get("__package__") == __package__
    return not own and bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)


def _looks_at(held: Any, mapped: mmap.mmap, array: type | None) -> bool:
    """Return whether it is a memoryview of the mapping, or an `array` of numpy's over one."""
    # Not `isinstance`, which asks objects for their class, and proxies and the like then run code of their own.
    while array is not None and issubclass(type(held), array):
        held = held.base
    try:
        return type(held) is memoryview and held.obj is mapped
    except ValueError:  # released
        return False


def _name(held: Any) -> str:
    if type(held) is memoryview:
        return f"a memoryview of {held.nbytes} bytes"
    return f"a numpy array of shape {held.shape} and type {held.dtype}"


def _place(container: Any) -> str:
    for name, module in tuple(sys.modules.items()):
        if container is _variables(module):
            return f"module {name}"
    return f"a {type(container).__qualname__}"


def _variables(module: object) -> dict[str, Any]:
    """Return the variables of a module, without loading a lazy one."""
    if not issubclass(type(module), ModuleType):
        return {}
    variables: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return variables
