"""Conversion of a case from and to JSON data, for `sysmemctl explain`, tests and bug reports.

Tables have the format of :mod:`sysmem_protocol.json_data`::

    {"participants": [{"name": "camera", "id": 1, "constraints": {"usage": {"video": "HW_ENCODER"}, …}}, …],
     "heaps": [{"type": "…", "id": 0, "domains": ["ram"], "secure": false}],
     "limits": {"max_buffer_bytes": 268435456, …}, "memory": {"contiguous": "refuse"},
     "format_costs": [{"pixel_format": "NV12", "usage": {"video": 1}, "cost": 100.0}]}

Only `participants` is required. Instead of a participant there can be a token group, `{"group": [[…], […]]}` with the
participants of each alternative in order of preference, or participants that attach after the others have their
buffers, `{"attached": […]}`. Both may be nested. A participant with `"pinned": true` stands for existing settings.
`"handles": ["writable", "weak"]` gives the properties of its handles, which matter only for heaps with
`"one_file": true`. An unknown key or a wrong type raises a :class:`JsonError` that names it.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from sysmem_protocol.images2 import PixelFormat, PixelFormatModifier
from sysmem_protocol.json_data import JsonError, kind, read
from sysmem_protocol.library import Bool, Enumeration, Integer, Nested, String, WireType
from sysmem_protocol.sysmem2 import BufferCollectionConstraints, BufferUsage, CoherencyDomain

from .constraints import NO_HANDLES, Access, FormatCost, HeapProperties, Participant, Platform
from .negotiation import Choice, Joining, Member


def read_case(data: object) -> tuple[list[Member], Platform]:
    """Return the members (participants, groups and those that attach), and the platform.

    Raises :class:`JsonError` if the data do not have this format.
    """
    top = _Object(data, "$")
    members = top.each("participants", _member, required=True)
    limits = _Object(top.take("limits", {}), "$.limits")
    memory = _Object(top.take("memory", {}), "$.memory")
    contiguous = memory.take("contiguous", "simulated")
    if contiguous not in ("simulated", "refuse"):
        raise JsonError("$.memory.contiguous", 'expected "simulated" or "refuse"')
    defaults = Platform()
    max_allocation = limits.take("max_allocation_bytes", None)
    platform = Platform(
        heaps=tuple(top.each("heaps", _heap)),
        format_costs=tuple(top.each("format_costs", _format_cost)),
        contiguous="refuse" if contiguous == "refuse" else "simulated",
        max_buffer_bytes=limits.bytes("max_buffer_bytes", defaults.max_buffer_bytes),
        max_collection_bytes=limits.bytes("max_collection_bytes", defaults.max_collection_bytes),
        max_allocation_bytes=None
        if max_allocation is None
        else read(_BYTES, max_allocation, "$.limits.max_allocation_bytes"),
    )
    for each in (top, limits, memory):
        each.end()
    return members, platform


def write_case(participants: Iterable[Participant], platform: Platform) -> dict[str, Any]:
    """Return JSON data that :func:`read_case` converts back to these participants and this platform."""
    return {
        "participants": [_written(who) for who in participants],
        "heaps": [
            {
                "type": heap.heap_type,
                "id": heap.id,
                "domains": sorted(domain.name.lower() for domain in heap.domains),
                "secure": heap.secure,
                **({"contiguous": True} if heap.contiguous else {}),
                **({"one_file": True} if heap.one_file else {}),
            }
            for heap in platform.heaps
        ],
        "limits": {
            name: value
            for name in ("max_buffer_bytes", "max_collection_bytes", "max_allocation_bytes")
            if (value := getattr(platform, name)) is not None
        },
        "memory": {"contiguous": platform.contiguous},
        "format_costs": [
            {
                "pixel_format": cost.pixel_format,
                "pixel_format_modifier": cost.pixel_format_modifier,
                "usage": cost.bits._asdict(),
                "cost": cost.cost,
            }
            for cost in platform.format_costs
        ],
    }


def _written(who: Participant) -> dict[str, Any]:
    constraints = None if who.constraints is None else who.constraints.to_dict()
    written: dict[str, Any] = {"name": who.name, "id": who.id, "constraints": constraints}
    if who.pinned:
        written["pinned"] = True
    if who.access:
        written["handles"] = [(access.name or "").lower() for access in who.access]
    return written


_T = TypeVar("_T")
_BYTES = Integer(64)
_REQUIRED = object()


class _Object:
    """A JSON object whose keys are taken one by one. Keys that are left at the end are unknown."""

    def __init__(self, data: object, path: str) -> None:
        if not isinstance(data, dict):
            raise JsonError(path, f"expected an object, got {kind(data)}")
        self.data: dict[str, Any] = dict(data)
        self.path = path

    def take(self, key: str, default: object = _REQUIRED) -> Any:
        if key not in self.data:
            if default is _REQUIRED:
                raise JsonError(f"{self.path}.{key}", "is required")
            return default
        return self.data.pop(key)

    def read(self, key: str, type_: WireType, default: object = _REQUIRED) -> Any:
        value = self.take(key, default)
        return value if value is default else read(type_, value, f"{self.path}.{key}")

    def bytes(self, key: str, default: int) -> int:
        return int(self.read(key, _BYTES, default))

    def each(
        self, key: str, element: Callable[[_Object], _T], *, required: bool = False
    ) -> list[_T]:
        values = self.take(key, _REQUIRED if required else [])
        return _each(values, f"{self.path}.{key}", element)

    def end(self) -> None:
        for key in self.data:
            raise JsonError(f"{self.path}.{key}", "unknown key")


def _each(values: object, path: str, element: Callable[[_Object], _T]) -> list[_T]:
    read = []
    for index, value in enumerate(_array(values, path)):
        item = _Object(value, f"{path}[{index}]")
        read.append(element(item))
        item.end()
    return read


def _array(values: object, path: str) -> list[Any]:
    if not isinstance(values, list):
        raise JsonError(path, f"expected an array, got {kind(values)}")
    return values


def _member(item: _Object) -> Member:
    if "attached" in item.data:
        return Joining(item.each("attached", _member))
    if "group" not in item.data:
        return _participant(item)
    path = f"{item.path}.group"
    alternatives = _array(item.take("group"), path)
    if not alternatives:
        raise JsonError(path, "expected at least one alternative")
    return Choice([_each(each, f"{path}[{i}]", _member) for i, each in enumerate(alternatives)])


def _participant(item: _Object) -> Participant:
    constraints = item.take("constraints", None)
    path = f"{item.path}.constraints"
    return Participant(
        None
        if constraints is None
        else read(Nested(BufferCollectionConstraints), constraints, path),
        name=item.read("name", String(256), ""),
        id=item.read("id", Integer(64), 0),
        pinned=item.read("pinned", Bool(), False),
        access=_access(item.take("handles", []), f"{item.path}.handles"),
    )


def _access(names: object, path: str) -> Access:
    """Return the properties of a participant's handles, from their names."""
    if not isinstance(names, list):
        raise JsonError(path, f"expected an array, got {kind(names)}")
    access = NO_HANDLES
    for index, name in enumerate(names):
        access |= Access[_name(name, Access, f"{path}[{index}]")]
    return access


def _heap(item: _Object) -> HeapProperties:
    names = item.take("domains", ["cpu", "ram", "inaccessible"])
    path = f"{item.path}.domains"
    if not isinstance(names, list):
        raise JsonError(path, f"expected an array, got {kind(names)}")
    domains = frozenset(
        CoherencyDomain[_name(name, CoherencyDomain, f"{path}[{i}]")]
        for i, name in enumerate(names)
    )
    return HeapProperties(
        item.read("type", String(128)),
        item.read("id", Integer(64), 0),
        domains,
        item.read("secure", Bool(), False),
        item.read("contiguous", Bool(), False),
        item.read("one_file", Bool(), False),
    )


def _name(value: object, names: type[enum.Enum], path: str) -> str:
    known = names.__members__
    if not isinstance(value, str) or value.upper() not in known:
        raise JsonError(path, f"expected one of {', '.join(name.lower() for name in known)}")
    return value.upper()


def _format_cost(item: _Object) -> FormatCost:
    cost = item.take("cost")
    if isinstance(cost, bool) or not isinstance(cost, int | float) or cost != cost:
        raise JsonError(f"{item.path}.cost", f"expected a number, got {kind(cost)}")
    try:
        cost = float(cost)
    except OverflowError:
        raise JsonError(f"{item.path}.cost", "is too large") from None
    return FormatCost(
        item.read("pixel_format", Enumeration(PixelFormat)),
        item.read("pixel_format_modifier", Enumeration(PixelFormatModifier, 64), 0),
        item.read("usage", Nested(BufferUsage), BufferUsage()),
        cost,
    )
