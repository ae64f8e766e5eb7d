"""What goes into the engine and what comes out of it."""

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
#: A heap as constraints name it: type and id.
HeapKey = tuple[str, int]
SYSTEM_HEAP: HeapKey = (SYSTEM_HEAP_TYPE, 0)

#: `BufferCollectionInfo.buffers` has room for no more.
MAX_BUFFER_COUNT = 128
MIB = 1 << 20
GIB = 1 << 30


class Access(enum.Flag):
    """What handles to the buffers will be like; nothing if there will be none."""

    READ_ONLY = enum.auto()
    WRITABLE = enum.auto()
    WEAK = enum.auto()


NO_HANDLES = Access(0)


@dataclass(frozen=True, slots=True)
class Participant:
    """One participant's constraints as sent, and who it says it is.

    `constraints` None is an empty table. What the engine works out about it is kept with it, so the same object
    may be part of many aggregations (group selections) at the cost of one; its tables must not change meanwhile.
    """

    constraints: BufferCollectionConstraints | None
    name: str = ""
    id: int = 0
    #: A synthetic entry that pins settings which exist (`must_match`, an attached attempt): it holds delivered
    #: settings, which are taken as they are, and its maximum size doesn't bind padding.
    pinned: bool = False
    #: What its handles will be like. It matters to heaps in which all handles to a buffer are one open file.
    access: Access = NO_HANDLES
    #: The terms of section 1 for the platform they were last worked out for.
    memo: list[Any] = field(default_factory=list, init=False, compare=False, repr=False)

    def __str__(self) -> str:
        return f"{printable(self.name) or 'unnamed client'} ({self.id})"


@dataclass(frozen=True, slots=True)
class HeapProperties:
    """A heap that the daemon has. A secure one supports the inaccessible domain only."""

    heap_type: str
    id: int = 0
    domains: frozenset[CoherencyDomain] = frozenset(CoherencyDomain)
    secure: bool = False
    #: Whether a buffer is physically contiguous.
    contiguous: bool = False
    #: Whether all handles to a buffer are one open file, so that all are alike, and none is weak beside strong ones.
    one_file: bool = False

    def __post_init__(self) -> None:
        if self.secure:
            object.__setattr__(self, "domains", frozenset({CoherencyDomain.INACCESSIBLE}))

    @property
    def key(self) -> HeapKey:
        """The heap's type and id."""
        return (self.heap_type, self.id)

    def suits(self, access: Access) -> bool:
        """Return whether its buffers can have such handles, all of them."""
        if not self.one_file:
            return True
        return Access.WEAK not in access and access & _BOTH != _BOTH


_BOTH = Access.READ_ONLY | Access.WRITABLE


@dataclass(frozen=True, slots=True)
class Platform:
    """What this daemon has and allows; built once from the configuration. Sizes in bytes.

    The system heap always exists: it is added in front when `heaps` doesn't list it. `page_size` is a power of 2.
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
    """What participants agree on: settings with every field set, and how many buffers."""

    settings: SingleBufferSettings
    buffer_count: int
    #: What the participants' handles will be like.
    access: Access = field(default=NO_HANDLES, compare=False)
    #: What it was aggregated from; None for an allocation that wasn't aggregated here.
    case: Case | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Case:
    """What was aggregated, and how: enough to do it again in part."""

    participants: tuple[Participant, ...]
    platform: Platform
    #: Counts, and whether anybody uses the buffers, left out of account (GetVmoInfo).
    settings_only: bool = False
    #: What the result must equal, and whether it is an attached attempt or a check of settings.
    existing: Allocation | None = None
