"""`docs/spec/image-formats.md`, section 3: costs and how their sources merge."""

from __future__ import annotations

import pytest

from sysmem_protocol.images2 import PixelFormat, PixelFormatModifier
from sysmem_protocol.sysmem2 import BufferUsage
from sysmemd.constraints import FormatCost, UsageBits, merge_format_costs
from sysmemd.constraints.cost import DEFAULT_COST, format_cost, index_costs

NV12, BGRA = PixelFormat.NV12, PixelFormat.B8G8R8A8


def cost(usage: UsageBits, *entries: FormatCost) -> float:
    return format_cost(index_costs(entries), NV12, 0, usage)


def test_without_an_entry_it_is_the_largest_double() -> None:
    assert cost(UsageBits(cpu=1)) == DEFAULT_COST
    assert cost(UsageBits(cpu=1), FormatCost(BGRA, cost=1)) == DEFAULT_COST
    tiled = FormatCost(NV12, PixelFormatModifier.INTEL_I915_Y_TILED, cost=1)
    assert cost(UsageBits(cpu=1), tiled) == DEFAULT_COST


@pytest.mark.parametrize("word", ["cpu", "vulkan", "display", "video"])
def test_an_entry_needs_all_its_usage(word: str) -> None:
    entry = FormatCost(NV12, 0, BufferUsage(**{word: 3}), 7)
    assert cost(UsageBits(**{word: 7}), entry) == 7
    assert cost(UsageBits(**{word: 1}), entry) == DEFAULT_COST


def test_none_bits_are_ignored_in_matching() -> None:
    """Quirk 14."""
    assert cost(UsageBits(cpu=1), FormatCost(NV12, 0, UsageBits(none=1), 7)) == 7


def test_most_shared_bits_win_whatever_the_order() -> None:
    close = FormatCost(NV12, 0, UsageBits(cpu=3), 5)
    far = FormatCost(NV12, 0, UsageBits(cpu=1), 9)
    assert cost(UsageBits(cpu=7), close, far) == cost(UsageBits(cpu=7), far, close) == 5


def test_usage_may_be_a_table_or_five_words() -> None:
    one = FormatCost(NV12, 0, BufferUsage(cpu=1), 1)
    assert one == FormatCost(NV12, 0, (0, 1, 0, 0, 0), 1)
    assert one.bits == UsageBits(cpu=1)


def test_not_a_number() -> None:
    with pytest.raises(ValueError, match="must be a number"):
        FormatCost(NV12, cost=float("nan"))


def test_merge_keeps_the_last_of_equal_keys_at_its_position() -> None:
    first, second = FormatCost(NV12, cost=1), FormatCost(BGRA, cost=2)
    later = FormatCost(NV12, PixelFormatModifier.LINEAR, BufferUsage(), 3)
    assert merge_format_costs([first, second], [later]) == (second, later)
    assert merge_format_costs([first], []) == (first,)
    with_none = FormatCost(NV12, 0, UsageBits(none=1), 4)
    assert merge_format_costs([first], [with_none]) == (first, with_none)
