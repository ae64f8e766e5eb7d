"""What a node's (logical) allocation came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sysmem_protocol.sysmem2 import Error, SingleBufferSettings

from ..constraints import Allocation, Participant
from .engine import Diagnosis
from .ports import Buffers


@dataclass(frozen=True, slots=True)
class Allocated:
    """The buffers as one node gets them. All but the last three fields are the same objects for every node."""

    #: The buffers of the whole collection.
    buffers: Buffers
    #: What holds for each of them.
    settings: SingleBufferSettings
    #: How many there are.
    count: int
    #: The rights of a VMO delivered to this node.
    #: Bits of `Rights`.
    rights: int
    #: Whether this node's participant gets VMOs at all: it uses buffers, and its rights let it read.
    delivers_vmo: bool
    #: Whether this node gets weak handles, each with a `close_weak_asap`.
    weak: bool


@dataclass(frozen=True, slots=True)
class RefusedSelection:
    """One group selection that was tried in vain."""

    #: For every visible group, in order of rank, the index of the child selected.
    choices: tuple[int, ...]
    refusal: Diagnosis
    #: The numbers of the nodes selected.
    chosen: tuple[int, ...] = ()

    def __str__(self) -> str:
        chosen = ", ".join(map(str, self.choices))
        return (f"[{chosen}]: " if chosen else "") + self.refusal.line(conflict=False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to allocate that has finished, kept for reports."""

    #: None is success.
    error: Error | None
    #: One line: why it failed; empty on success.
    reason: str
    #: The selections that were refused, in the order in which they were tried.
    refused: tuple[RefusedSelection, ...]
    #: The number of the start node.
    start: int
    #: When it finished, by the collection's clock.
    at: int
    #: What the last selection tried came to, and the numbers of the nodes that it selected; None if it was refused.
    allocation: Allocation | None = None
    chosen: tuple[int, ...] = ()
    #: What each node of the subtree brought, by its number.
    participants: Mapping[int, tuple[Participant, ...]] = field(default_factory=dict, repr=False)
    #: Of a refusal the full text, if somebody wanted it.
    report: str | None = field(default=None, repr=False)
