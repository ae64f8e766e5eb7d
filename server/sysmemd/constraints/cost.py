"""The cheapest of several possible formats.

See `docs/spec/image-formats.md`, section 3, and `docs/spec/constraints.md`, section 5.4.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sysmem_protocol.formats import LINEAR
from sysmem_protocol.sysmem2 import BufferUsage

from .usage import UsageBits

#: What a format costs that no entry of the table speaks of: more than any that one does.
DEFAULT_COST = sys.float_info.max
#: No bits: an entry that holds for any usage.
ANY_USAGE = UsageBits()


@dataclass(frozen=True, slots=True)
class FormatCost:
    """One entry of the cost table: using this format costs that much, for these usages.

    `usage` is five words of bits (none, cpu, vulkan, display, video); a `BufferUsage` is taken too. An un-set
    modifier means LINEAR. `cost` has no unit; costs are only compared. ValueError if it isn't a number.
    """

    pixel_format: int
    pixel_format_modifier: int = LINEAR
    usage: UsageBits | BufferUsage | tuple[int, int, int, int, int] = ANY_USAGE
    cost: float = 0.0

    def __post_init__(self) -> None:
        usage = self.usage
        bits = UsageBits.of(usage) if isinstance(usage, BufferUsage) else UsageBits(*usage)
        object.__setattr__(self, "usage", bits)
        if math.isnan(self.cost):
            raise ValueError("the cost of a format must be a number")

    @property
    def bits(self) -> UsageBits:
        """`usage`, as words of bits whatever it was given as."""
        assert isinstance(self.usage, UsageBits)
        return self.usage

    @property
    def key(self) -> tuple[int, int, UsageBits]:
        """What a later source's entry replaces an earlier one by; `none` bits count here, and only here."""
        return (int(self.pixel_format), int(self.pixel_format_modifier), self.bits)


def merge_format_costs(*sources: Iterable[FormatCost]) -> tuple[FormatCost, ...]:
    """One table of several, the board's first and the platform's last.

    Of entries with the same key the last survives, at its own position.
    """
    merged: dict[tuple[int, int, UsageBits], FormatCost] = {}
    for source in sources:
        for entry in source:
            merged.pop(entry.key, None)
            merged[entry.key] = entry
    return tuple(merged.values())


CostIndex = Mapping[tuple[int, int], Sequence[FormatCost]]


def index_costs(costs: Iterable[FormatCost]) -> CostIndex:
    """Return the table by (format, modifier), each format's entries in their order."""
    index: dict[tuple[int, int], list[FormatCost]] = {}
    for entry in costs:
        key = (int(entry.pixel_format), int(entry.pixel_format_modifier))
        index.setdefault(key, []).append(entry)
    return index


def format_cost(costs: CostIndex, pixel_format: int, modifier: int, usage: UsageBits) -> float:
    """What a format costs a collection that is used in these ways.

    Of the entries whose usage is part of `usage` the one that shares most bits with it counts; of several the last.
    """
    best, cost = -1, DEFAULT_COST
    for entry in costs.get((pixel_format, modifier), ()):
        bits = entry.bits
        if any(own & ~used for own, used in zip(bits[1:], usage[1:], strict=True)):
            continue
        shared = sum(word.bit_count() for word in bits[1:])
        if shared >= best:
            best, cost = shared, entry.cost
    return cost
