"""The engine's arguments and results."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from sysmem_protocol.sysmem2 import (
    SYSTEM_RAM_HEAP,
    BufferCollectionConstraints,
    CoherencyDomain,
    SingleBufferSettings,
)

from ..text import printable
from .cost import CostIndex, FormatCost, index_costs

SYSTEM_HEAP_TYPE: str = SYSTEM_RAM_HEAP.heap_type or ""
#: A heap as it is named in constraints: type and id.
HeapKey = tuple[str, int]
SYSTEM_HEAP: HeapKey = (SYSTEM_HEAP_TYPE, 0)

#: The maximum length of `BufferCollectionInfo.buffers`.
MAX_BUFFER_COUNT = 128
MIB = 1 << 20
GIB = 1 << 30


class Access(enum.Flag):
    """The properties of handles to the buffers; empty if there will be no handles."""

    READ_ONLY = enum.auto()
    WRITABLE = enum.auto()
    WEAK = enum.auto()


NO_HANDLES = Access(0)


@dataclass(frozen=True, slots=True)
class Participant:
    """One participant's constraints as sent, and its name and id.

    `constraints` None is an empty table. The engine caches its results in this object, so that using it in many
    aggregations (group selections) costs as much as one. Its tables must not be changed meanwhile.
    """

    constraints: BufferCollectionConstraints | None
    name: str = ""
    id: int = 0
    #: A synthetic participant that pins existing settings (`must_match`, an attached attempt). It has delivered
    #: settings, which are used unchanged, and its maximum size does not limit padding.
    pinned: bool = False
    #: The properties of its handles. They matter for heaps in which all handles to a buffer are one open file.
    access: Access = NO_HANDLES
    #: The terms of section 1, for the platform for which they were last computed.
    memo: list[Any] = field(default_factory=list, init=False, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{printable(self.name) or 'unnamed client'} ({self.id})"


@dataclass(frozen=True, slots=True)
class HeapProperties:
    """A heap that the daemon has. A secure heap supports only the inaccessible domain."""

    heap_type: str
    id: int = 0
    domains: frozenset[CoherencyDomain] = frozenset(CoherencyDomain)
    secure: bool = False
    #: Whether a buffer is physically contiguous.
    contiguous: bool = False
    #: Whether all handles to a buffer are one open file, so that all have the same mode and none can be weak on its
    #: own.
    one_file: bool = False

    def __post_init__(self) -> None:
        if self.secure:
            object.__setattr__(self, "domains", frozenset({CoherencyDomain.INACCESSIBLE}))

    @property
    def key(self) -> HeapKey:
        """The heap's type and id."""
        return (self.heap_type, self.id)

    def suits(self, access: Access) -> bool:
        """Return whether its buffers can have all these handles."""
        if not self.one_file:
            return True
        return Access.WEAK not in access and access & _BOTH != _BOTH


_BOTH = Access.READ_ONLY | Access.WRITABLE


@dataclass(frozen=True, slots=True)
class Platform:
    """The capabilities and limits of this daemon, built once from the configuration. Sizes are in bytes.

    The system heap always exists. If `heaps` does not list it, it is added in front. `page_size` is a power of 2.
    """

    heaps: tuple[HeapProperties, ...] = (HeapProperties(SYSTEM_HEAP_TYPE),)
    format_costs: tuple[FormatCost, ...] = ()
    page_size: int = 4096
    contiguous: Literal["simulated", "refuse"] = "simulated"
    max_buffer_bytes: int = 256 * MIB
    max_collection_bytes: int = GIB
    max_allocation_bytes: int | None = None
    heaps_by_key: Mapping[HeapKey, HeapProperties] = field(init=False, compare=False, repr=False)
    cost_index: CostIndex = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if all(heap.key != SYSTEM_HEAP for heap in self.heaps):
            object.__setattr__(self, "heaps", (HeapProperties(SYSTEM_HEAP_TYPE), *self.heaps))
        object.__setattr__(self, "heaps_by_key", {heap.key: heap for heap in self.heaps})
        object.__setattr__(self, "cost_index", index_costs(self.format_costs))


@dataclass(frozen=True, slots=True)
class Allocation:
    """A result: settings with every field set, and the number of buffers."""

    settings: SingleBufferSettings
    buffer_count: int
    #: The properties of the participants' handles.
    access: Access = field(default=NO_HANDLES, compare=False)
    #: The case that was aggregated; None if the allocation is not the result of an aggregation here.
    case: Case | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Case:
    """The input and options of an aggregation: enough to repeat it in part."""

    participants: tuple[Participant, ...]
    platform: Platform
    #: Whether counts and missing usage are ignored (GetVmoInfo).
    settings_only: bool = False
    #: The required result of an attached attempt or of a check of settings.
    existing: Allocation | None = None
