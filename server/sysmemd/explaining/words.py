"""Values as text for people."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Any

from sysmem_protocol.formats import pair_name
from sysmem_protocol.library import Enumeration, Table, WireType
from sysmem_protocol.sysmem2 import Heap, PixelFormatAndModifier, SizeU

from ..pause import giving_way
from ..text import printable

#: The maximum number of list elements in short texts.
MAX_SHOWN = 8


class Bits(int):
    """A combination of flags: the number, and the names of its bits.

    It is not a member of the flags' type, because Python keeps every member ever created, and clients may send any
    number.
    """

    flags: type[enum.IntFlag]

    def __new__(cls, flags: type[enum.IntFlag], number: int) -> Bits:
        self = super().__new__(cls, number)
        self.flags = flags
        return self


def as_declared(type_: WireType, value: Any) -> Any:
    """Return a field's value; flags, which may be given as a number, as :class:`Bits`."""
    if isinstance(type_, Enumeration) and issubclass(type_.type, enum.IntFlag):
        return Bits(type_.type, value)
    return value


def show(value: Any, max_shown: int | None = MAX_SHOWN) -> str:
    """Return a value as text for people: `un-set`, `1280×720`, `NV12`, `system ram/0`.

    At most `max_shown` elements of a list are shown.
    """
    if value is None:
        return "un-set"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Bits):
        known = [flag for flag in value.flags if int(flag) & value]
        unnamed = value & ~sum(map(int, known))
        names = [flag.name or "" for flag in known] + ([hex(unnamed)] if unnamed else [])
        return "|".join(names) or "0"
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, SizeU):
        return f"{value.width}×{value.height}"
    if isinstance(value, PixelFormatAndModifier):
        return pair_name((value.pixel_format, value.pixel_format_modifier))
    if isinstance(value, Heap):
        return f"{printable(value.heap_type or '')}/{value.id or 0}"
    if isinstance(value, list | tuple):
        shown = [show(element, max_shown) for element in value[:max_shown]]
        if len(shown) < len(value):
            shown.append(f"… {len(value) - len(shown)} more")
        return f"[{', '.join(shown)}]"
    return str(value)


def listing(table: Table | None) -> str:
    """Return all fields of a table that are set, a line each, by their paths; "un-set" if there are none."""
    return "\n".join(giving_way(_lines(table, "$"), 1)) or show(None)


def _lines(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, Table) and not isinstance(value, Heap):
        for member, field in value.set_fields():
            yield from _lines(as_declared(member.field.type, field), f"{path}.{member.name}")
    elif isinstance(value, list) and any(isinstance(element, Table) for element in value):
        for index, element in enumerate(value):
            yield from _lines(element, f"{path}[{index}]")
    elif value is not None:
        yield f"{path} = {show(value, None)}"
