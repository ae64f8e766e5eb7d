"""The objects that still use a mapping, for the error at the end of its with-block."""

from __future__ import annotations

import gc
import inspect
import mmap
import sys
from collections.abc import Iterator
from types import FrameType, ModuleType, TracebackType
from typing import Any

#: The maximum number of holders that are named.
MAX_NAMED = 4
#: References from the frame to its copy of its variables, from this function, and from the caller of getrefcount.
_REFERENCES_TO_OURS = 3


def holders(mapped: mmap.mmap, view: memoryview, traceback: TracebackType | None) -> str:
    """Return a description of the memoryviews and numpy arrays over `mapped` except `view`, and where they are.

    The place is a variable of a running function, or the kind of object that contains the holder. Examining all objects
    takes up to seconds in a large process. So if an unrelated exception is being raised, given by its `traceback`, only
    variables are examined, including those of the functions that the exception has ended.
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
            # Until Python 3.12 this is a copy that the frame keeps. Clear it, so that it does not keep the mapping or
            # anything else. It may also be a result of locals() that the program has; then clear only what is needed.
            is_ours = sys.getrefcount(variables) <= _REFERENCES_TO_OURS
            for name in tuple(variables if is_ours else counted):
                variables.pop(name, None)
    for container in objects:
        # A module's variables are in its dictionary, which is a container of its own. The module itself may refer to
        # objects that are already free: those that CPython 3.12's asyncio keeps for reuse would be freed once more.
        if issubclass(type(container), ModuleType):
            continue
        for held in gc.get_referents(container):
            if counts(held):
                note(held, _place(container))
    found = [f"{names[key]} in {' and '.join(dict.fromkeys(places[key]))}" for key in names]
    # The remaining views are in objects that cannot be examined from Python.
    found = found or [_name(each) for each in objects if counts(each)]
    more = [f"{len(found) - MAX_NAMED} more"] if len(found) > MAX_NAMED else []
    return ", ".join(found[:MAX_NAMED] + more) or "an unknown object"


def _frames(traceback: TracebackType | None) -> Iterator[FrameType]:
    """Yield the running functions of all threads, and those that an exception has ended.

    Functions of this package, modules and class bodies are left out.
    """
    for frame in sys._current_frames().values():
        caller: FrameType | None = frame
        while caller is not None:
            if _is_function(caller):
                yield caller
            caller = caller.f_back
    del frame  # the last frame is this function's own
    # The first entry has the with-block, and is still running.
    ended = traceback and traceback.tb_next
    while ended is not None:
        if _is_function(ended.tb_frame):
            yield ended.tb_frame
        ended = ended.tb_next


def _is_function(frame: FrameType) -> bool:
    own = frame.f_globals.get("__package__") == __package__
    return not own and bool(frame.f_code.co_flags & inspect.CO_OPTIMIZED)


def _looks_at(held: Any, mapped: mmap.mmap, array: type | None) -> bool:
    """Return whether an object is a memoryview of the mapping, or a numpy array over one."""
    # Not `isinstance`: it asks objects for their class, which runs code of proxies.
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
    """Return the variables of a module, without loading a lazy module."""
    if not issubclass(type(module), ModuleType):
        return {}
    variables: dict[str, Any] = object.__getattribute__(module, "__dict__")
    return variables
