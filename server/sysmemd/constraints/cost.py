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

#: The cost of a format without an entry in the table: more than that of any entry.
DEFAULT_COST = sys.float_info.max
#: No bits: the entry applies to any usage.
ANY_USAGE = UsageBits()


@dataclass(frozen=True, slots=True)
class FormatCost:
    """One entry of the cost table: the cost of a format for some usages.

    `usage` consists of five words of bits (none, cpu, vulkan, display, video), or is a `BufferUsage`. An un-set
    modifier means LINEAR. `cost` has no unit, because costs are only compared. Raises `ValueError` if it is not a
    number.
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
        """`usage` as words of bits."""
        assert isinstance(self.usage, UsageBits)
        return self.usage

    @property
    def key(self) -> tuple[int, int, UsageBits]:
        """The key by which an entry of a later source replaces an earlier one. `none` bits matter only here."""
        return (int(self.pixel_format), int(self.pixel_format_modifier), self.bits)


def merge_format_costs(*sources: Iterable[FormatCost]) -> tuple[FormatCost, ...]:
    """Return one table from several sources, the board's first and the platform's last.

    Of entries with the same key the last one is kept, at its own position.
    """
    merged: dict[tuple[int, int, UsageBits], FormatCost] = {}
    for source in sources:
        for entry in source:
            merged.pop(entry.key, None)
            merged[entry.key] = entry
    return tuple(merged.values())


CostIndex = Mapping[tuple[int, int], Sequence[FormatCost]]


def index_costs(costs: Iterable[FormatCost]) -> CostIndex:
    """Return the table by (format, modifier), with each format's entries in order."""
    index: dict[tuple[int, int], list[FormatCost]] = {}
    for entry in costs:
        key = (int(entry.pixel_format), int(entry.pixel_format_modifier))
        index.setdefault(key, []).append(entry)
    return index


def format_cost(costs: CostIndex, pixel_format: int, modifier: int, usage: UsageBits) -> float:
    """Return the cost of a format for a collection with this usage.

    Of the entries whose usage is a subset of `usage`, the one that shares most bits with it applies; of several, the
    last.
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
