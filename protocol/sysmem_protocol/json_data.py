"""Conversion between tables and JSON data, for `Table.to_dict()` and `sysmemd.explain`.

A table is an object of its set fields, by name. An enum member is its name, and a combination of flags is an array of
names; a value without a name is a number. A struct is an array of its members. Reading also accepts an object for a
struct, a number or a single name for flags, and null for a field that is un-set.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .library import (
    Bool,
    Enumeration,
    HandleType,
    Integer,
    Nested,
    String,
    Struct,
    Table,
    Vector,
    WireType,
)


class JsonError(ValueError):
    """The data cannot be read or written. The message begins with the path of the field."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")


#: Returns the JSON data for a handle of a type, or the handle for JSON data. The last argument is its path.
HandleData: TypeAlias = Callable[[HandleType, Any, str], Any]


def _refuse_handle(type_: HandleType, value: Any, path: str) -> Any:
    raise JsonError(path, _HANDLE)


_HANDLE = "a handle has no value here"


def read(type_: WireType, value: Any, path: str = "$", handle: HandleData = _refuse_handle) -> Any:
    """Return the value that JSON data represent.

    Raises:
        JsonError: A key is unknown, a value has the wrong type, or there is a handle and `handle` is not given.
    """
    match type_:
        case Bool():
            if not isinstance(value, bool):
                raise JsonError(path, f"expected true or false, got {kind(value)}")
            return value
        case Integer(minimum=minimum, maximum=maximum, bits=bits):
            return _integer(value, minimum, maximum, bits, path)
        case Enumeration(type=enumeration, bits=bits):
            return _member(enumeration, value, bits, path)
        case String(max_bytes=limit):
            if not isinstance(value, str) or len(value.encode(errors="replace")) > limit:
                raise JsonError(path, f"expected text of at most {limit} bytes")
            return value
        case Vector(element=element, max_count=limit):
            if not isinstance(value, list) or len(value) > limit:
                raise JsonError(path, f"expected an array of at most {limit}, got {kind(value)}")
            return [read(element, each, f"{path}[{i}]", handle) for i, each in enumerate(value)]
        case Nested(type=declared):
            return _record(declared, value, path, handle)
        case HandleType():
            return handle(type_, value, path)


def write(type_: WireType, value: Any, path: str = "$", handle: HandleData = _refuse_handle) -> Any:
    """Return the JSON data of a value. :func:`read` returns an equal value for them if there is no handle in it.

    Raises:
        JsonError: There is a handle in the value, and `handle` is not given.
    """
    match type_:
        case Bool() | String():
            return value
        case Integer():
            return int(value)
        case Enumeration():
            return _names(type_, value)
        case Vector(element=element):
            return [write(element, each, f"{path}[{i}]", handle) for i, each in enumerate(value)]
        case Nested(type=declared) if issubclass(declared, Struct):
            return [
                write(member.field.type, getattr(value, member.name), f"{path}.{member.name}")
                for member in declared.members
            ]
        case Nested():
            return write_table(value, path, handle)
        case HandleType():
            return handle(type_, value, path)


def write_table(
    table: Table, path: str = "$", handle: HandleData = _refuse_handle
) -> dict[str, Any]:
    """Return the JSON data of a table, as :func:`write` does."""
    return {
        member.name: write(member.field.type, value, f"{path}.{member.name}", handle)
        for member, value in table.set_fields()
    }


def _names(type_: Enumeration, value: int) -> Any:
    """Return the name of a member, or the names of flags. Values without a name become numbers."""
    names = [part.name if isinstance(part, enum.Enum) else part for part in type_.parts(value)]
    return names if issubclass(type_.type, enum.IntFlag) else names[0]


def _integer(value: Any, minimum: int, maximum: int, bits: int, path: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise JsonError(path, f"expected an integer, got {kind(value)}")
    if not minimum <= value <= maximum:
        raise JsonError(path, f"{value} doesn't fit {bits} bits")
    return value


def _member(
    type_: type[enum.IntEnum] | type[enum.IntFlag], value: Any, bits: int, path: str
) -> int:
    """Return a member by name or number, or flags by an array. An unknown number stays a number."""
    if isinstance(value, str):
        if value not in type_.__members__:
            raise JsonError(path, f"{type_.__name__} has no member {value}")
        return type_[value]
    if isinstance(value, list) and issubclass(type_, enum.IntFlag):
        flags = type_(0)
        for index, flag in enumerate(value):
            flags |= type_(_member(type_, flag, bits, f"{path}[{index}]"))
        return flags
    number = _integer(value, 0, (1 << bits) - 1, bits, path)
    try:
        return type_(number)
    except ValueError:
        return number


def _record(declared: Any, value: Any, path: str, handle: HandleData) -> Any:
    """Return a table for an object, or a struct for an object or an array with all of its members."""
    members = {member.name: member.field for member in declared.members}
    is_struct = issubclass(declared, Struct)
    if is_struct and isinstance(value, list):
        if len(value) != len(members):
            raise JsonError(path, f"expected {len(members)} elements, got {len(value)}")
        value = dict(zip(members, value, strict=True))
    if not isinstance(value, Mapping):
        raise JsonError(path, f"expected an object, got {kind(value)}")
    found = {}
    for key, element in value.items():
        if key not in members:
            raise JsonError(f"{path}.{key}", "unknown key")
        if element is not None or is_struct:
            found[key] = read(members[key].type, element, f"{path}.{key}", handle)
    if is_struct:
        for key in members:
            if key not in found:
                raise JsonError(f"{path}.{key}", "is required")
    return declared(**found)


_KINDS = {
    dict: "an object",
    list: "an array",
    str: "text",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "null",
}


def kind(value: object) -> str:
    """Return the JSON name of a value's type, with an article."""
    return _KINDS.get(type(value), type(value).__name__)
