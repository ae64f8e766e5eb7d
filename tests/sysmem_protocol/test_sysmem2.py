"""The declarations of methods, tables and enums are those of `docs/spec/protocol.md` and the pages that it links."""

from __future__ import annotations

import enum
import re

import pytest

from sysmem_protocol import library, sysmem2
from sysmem_protocol.explained import Explained
from sysmem_protocol.inspector import Inspector
from sysmem_protocol.library import (
    Bool,
    Enumeration,
    Event,
    HandleType,
    Integer,
    Interface,
    Method,
    Nested,
    String,
    Struct,
    Table,
    Vector,
    WireType,
)
from sysmem_protocol.rendezvous import Rendezvous

from ..spec_pages import rows

#: Headings of the tables and of the structs in `docs/spec/protocol.md`, "Tables".
TABLES = [
    "BufferCollectionConstraints",
    "BufferUsage",
    "BufferMemoryConstraints",
    "Heap",
    "ImageFormatConstraints",
    "BufferCollectionInfo",
    "SingleBufferSettings",
    "BufferMemorySettings",
    "VmoBuffer",
]
STRUCTS = ["SizeU", "PixelFormatAndModifier"]

#: The sections with the tables of methods, by the interface that declares the methods.
PLACES = {
    "Allocator": ("protocol.md", "Allocator"),
    "Node": ("protocol.md", "Node"),
    "BufferCollectionToken": ("protocol.md", "BufferCollectionToken"),
    "BufferCollection": ("protocol.md", "BufferCollection"),
    "BufferCollectionTokenGroup": ("protocol.md", "BufferCollectionTokenGroup"),
    "Inspector": ("inspect.md", "The Inspector protocol"),
    "Explained": ("inspect.md", "What a refused participant learns"),
    "Rendezvous": ("client-api.md", "The Rendezvous protocol"),
}
#: (declarer, name) to (ordinal, request, response), as the page spells them.
METHODS = {
    (declarer, name): (int(ordinal, 16), request, response)
    for declarer, (page, heading) in PLACES.items()
    for name, ordinal, request, response in rows(page, heading, 4)
}
INTERFACES: dict[type[Interface], list[str]] = {
    Inspector: ["Inspector"],
    Explained: ["Explained"],
    Rendezvous: ["Rendezvous"],
    sysmem2.Allocator: ["Allocator"],
    sysmem2.Node: ["Node"],
    sysmem2.BufferCollectionToken: ["Node", "BufferCollectionToken"],
    sysmem2.BufferCollection: ["Node", "BufferCollection"],
    sysmem2.BufferCollectionTokenGroup: ["Node", "BufferCollectionTokenGroup"],
}
ENUMS = {
    name: dict(re.findall(r"(\w+) (0x[\da-f]+|\d+)", members))
    for name, _, members in rows("protocol.md", "Enums and flags", 3)
}


def spelled(wire: WireType) -> str:
    """Return a wire type as it is written in the tables above."""
    match wire:
        case Bool():
            return "bool"
        case Integer():
            return f"{'i' if wire.signed else 'u'}{wire.bits}"
        case Enumeration():
            return f"{wire.type.__name__} u{wire.bits}"
        case String():
            return f"string ≤ {wire.max_bytes}"
        case Vector():
            return f"vector of {spelled(wire.element)} ≤ {wire.max_count}"
        case Nested():
            return library.declared(wire.type).__name__
        case HandleType():
            return wire.kind.value + (f" of {wire.interface}" if wire.interface else "")


def declared(kind: type[Table | Struct] | None) -> list[list[str]]:
    """Return a table's fields: number, name and type."""
    return [
        [str(m.field.number), m.name, spelled(m.field.type)] for m in (kind.members if kind else ())
    ]


def message(kind: type[Table] | None) -> str:
    """Return a request or response as the page writes it."""
    required = {m.name for m in (kind.members if kind else ()) if m.field.required}
    fields = (
        f"{number} {name}: {type}{' (required)' if name in required else ''}"
        for number, name, type in declared(kind)
    )
    return "; ".join(fields)


def response(method: Method) -> str:
    text = message(method.response)
    if method.fallible:
        return f"success: {text or 'empty table'}. Or Error"
    if isinstance(method, Event):
        return "event"
    return text or "empty body" if method.two_way else "one-way"


@pytest.mark.parametrize("name", [*TABLES, *STRUCTS])
def test_tables_and_structs(name: str) -> None:
    kind = getattr(sysmem2, name)
    assert issubclass(kind, Table if name in TABLES else Struct)
    assert declared(kind) == rows("protocol.md", name, 3)


@pytest.mark.parametrize(
    ("interface", "declarer", "name"),
    [
        (interface, declarer, name)
        for interface, declarers in INTERFACES.items()
        for declarer, name in METHODS
        if declarer in declarers
    ],
)
def test_methods(interface: type[Interface], declarer: str, name: str) -> None:
    number, request, answer = METHODS[declarer, name]
    method = {**interface.methods, **interface.events}[number]
    assert method.ordinal == number
    assert str(method) == f"{declarer}.{name}"
    assert getattr(interface, method.name) is method
    assert (message(method.request) or "—", response(method)) == (request, answer)
    assert method.doc.endswith(".")


@pytest.mark.parametrize("interface", INTERFACES)
def test_no_other_methods(interface: type[Interface]) -> None:
    names = {
        f"{declarer}.{name}" for declarer, name in METHODS if declarer in INTERFACES[interface]
    }
    declared = (*interface.methods.values(), *interface.events.values())
    assert {str(method) for method in declared} == names


@pytest.mark.parametrize("name", ENUMS)
def test_enums_and_flags(name: str) -> None:
    members = getattr(sysmem2, name).__members__
    assert {name: int(member) for name, member in members.items()} == {
        name: int(number, 0) for name, number in ENUMS[name].items()
    }


def test_no_other_tables_structs_and_enums() -> None:
    """The page has no others, except the requests and responses of methods."""
    own = [v for v in vars(sysmem2).values() if isinstance(v, type)]
    messages = {
        table
        for interface in INTERFACES
        for method in interface.methods.values()
        for table in (method.request, method.response)
    }
    kinds = {library.declared(v) for v in own if issubclass(v, Table | Struct)} - messages
    assert {kind.__name__ for kind in kinds} == {*TABLES, *STRUCTS}
    enums = {v.__name__ for v in own if issubclass(v, enum.Enum)}
    assert enums == {*ENUMS, "ColorSpace", "PixelFormat", "PixelFormatModifier"}


def test_the_system_heap() -> None:
    heap = sysmem2.Heap(heap_type="fuchsia.sysmem.heap.HEAP_TYPE.SYSTEM_RAM", id=0)
    assert heap == sysmem2.SYSTEM_RAM_HEAP


def test_the_service_is_named_in_full() -> None:
    assert (sysmem2.Allocator,) == sysmem2.DISCOVERABLE
    assert sysmem2.Allocator.service_name() == "fuchsia.sysmem2.Allocator"


def test_nodes_are_the_three_kinds_of_place_in_a_tree() -> None:
    assert {kind.__name__ for kind in sysmem2.NODES} == {
        "BufferCollectionToken",
        "BufferCollection",
        "BufferCollectionTokenGroup",
    }


def test_removing_a_right_from_all_leaves_a_mask_that_fits() -> None:
    assert int(~sysmem2.Rights.WRITE) == 0xFFFFFFF7
