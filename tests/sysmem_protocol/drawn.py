"""Hypothesis strategies for every table that a message carries."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

from sysmem_protocol import sysmem2
from sysmem_protocol.library import (
    Bool,
    Enumeration,
    HandleType,
    Integer,
    Interface,
    Nested,
    String,
    Struct,
    Table,
    Vector,
    WireType,
)
from sysmem_protocol.sysmem2 import Allocator


def walk(kind: type[Table | Struct]) -> Iterator[type[Table | Struct]]:
    yield kind
    for member in kind.members:
        wire = member.field.type
        if isinstance(wire, Vector):
            wire = wire.element
        if isinstance(wire, Nested):
            yield from walk(wire.type)


INTERFACES: tuple[type[Interface], ...] = (Allocator, *sysmem2.NODES)
METHODS = {method for interface in INTERFACES for method in interface.methods.values()}
TABLES: list[type[Table]] = sorted(
    {
        kind
        for method in METHODS
        for top in (method.request, method.response)
        if top is not None
        for kind in walk(top)
        if issubclass(kind, Table)
    },
    key=lambda kind: kind.__name__,
)


#: Stands for a descriptor in a drawn table. It is opened afterwards, because hypothesis abandons some drawings.
HERE = object()


def values(wire: WireType) -> st.SearchStrategy[Any]:
    """Return a strategy for every value that a wire type can carry."""
    match wire:
        case Bool():
            return st.booleans()
        case Integer():
            edges = st.sampled_from([wire.minimum, wire.maximum])
            return st.integers(wire.minimum, wire.maximum) | edges
        case Enumeration():
            return st.integers(0, (1 << wire.bits) - 1) | st.sampled_from(list(wire.type))
        case String():
            text = st.text(max_size=wire.max_bytes // 4)
            return text | st.just("a" * wire.max_bytes)
        case Vector():
            return st.lists(values(wire.element), max_size=min(3, wire.max_count))
        case Nested():
            return instances(wire.type)
        case HandleType():
            return st.just(HERE)


_strategies: dict[type[Table | Struct], st.SearchStrategy[Any]] = {}


def instances(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Return a strategy for every instance of a table or struct."""
    if kind not in _strategies:
        optional = issubclass(kind, Table)
        fields = {
            m.name: st.none() | values(m.field.type) if optional else values(m.field.type)
            for m in kind.members
        }
        _strategies[kind] = st.builds(kind, **fields)
    return _strategies[kind]
