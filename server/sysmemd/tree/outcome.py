"""The result of a node's (logical) allocation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sysmem_protocol.sysmem2 import Error, SingleBufferSettings

from ..constraints import Allocation, Participant
from .engine import Diagnosis
from .ports import Buffers


@dataclass(frozen=True, slots=True)
class Allocated:
    """The buffers as one node receives them. All but the last three fields are the same objects for every node."""

    #: The buffers of the whole collection.
    buffers: Buffers
    #: The settings of each buffer.
    settings: SingleBufferSettings
    #: The number of buffers.
    count: int
    #: The rights of a VMO that is delivered to this node: Bits of `Rights`.
    rights: int
    #: Whether this node's participant receives VMOs: it uses buffers, and its rights include READ.
    delivers_vmo: bool
    #: Whether this node receives weak handles, each with a `close_weak_asap`.
    weak: bool


@dataclass(frozen=True, slots=True)
class RefusedSelection:
    """One group selection that was refused."""

    #: For every visible group, in order of rank, the index of the selected child.
    choices: tuple[int, ...]
    refusal: Diagnosis
    #: The numbers of the selected nodes.
    chosen: tuple[int, ...] = ()

    def __str__(self) -> str:
        chosen = ", ".join(map(str, self.choices))
        return (f"[{chosen}]: " if chosen else "") + self.refusal.line(conflict=False)


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to allocate that has finished, kept for reports."""

    #: None means success.
    error: Error | None
    #: The reason of a failure in one line; empty on success.
    reason: str
    #: The selections that were refused, in the order in which they were tried.
    refused: tuple[RefusedSelection, ...]
    #: The number of the start node.
    start: int
    #: The time at which it finished, by the collection's clock.
    at: int
    #: The result of the last selection, and the numbers of the nodes that it selected; None if it was refused.
    allocation: Allocation | None = None
    chosen: tuple[int, ...] = ()
    #: The participants of each node of the subtree, by the node's number.
    participants: Mapping[int, tuple[Participant, ...]] = field(default_factory=dict, repr=False)
    #: The report of a refusal, if it was requested.
    report: str | None = field(default=None, repr=False)
