"""`docs/spec/constraints.md`, section 5: count, format, sizes and limits."""

from __future__ import annotations

import re
from typing import Any

import pytest

from sysmem_protocol.sysmem2 import BufferUsage
from sysmemd.constraints import FormatCost, Platform, Refusal, Rule, Stage
from sysmemd.explaining import Diagnosis

from .support import (
    SECURE_HEAP,
    U32,
    F,
    M,
    agree,
    heap,
    image,
    image_of,
    memory,
    memory_of,
    refused_by,
    size,
    wants,
)

MIB, GIB = 1 << 20, 1 << 30
DISPLAY = BufferUsage(display=1)


# --- 1, the count -------------------------------------------------------------------------------------------------


def counts(camping: int, dedicated: int, shared: int, least: int = 0) -> Any:
    return wants(
        count=camping,
        min_buffer_count_for_dedicated_slack=dedicated,
        min_buffer_count_for_shared_slack=shared,
        min_buffer_count=least,
        min_size_bytes=1,
    )


def test_count_is_camping_and_slack() -> None:
    assert agree(counts(1, 2, 3), counts(4, 5, 2)).buffer_count == 1 + 4 + 2 + 5 + 3


def test_count_is_at_least_min_buffer_count() -> None:
    assert agree(counts(1, 0, 0, least=6), counts(1, 0, 0)).buffer_count == 6
    assert agree(counts(4, 0, 0, least=6), counts(4, 0, 0)).buffer_count == 8


def test_count_over_max_buffer_count() -> None:
    limit = wants(count=2, max_buffer_count=3)
    refusal = refused_by(Rule.COUNT_OVER_MAX, counts(2, 0, 0), limit)
    assert refusal.stage is Stage.SETTINGS
    assert refusal.detail == "4 > 3"


def test_count_over_128() -> None:
    assert agree(counts(128, 0, 0)).buffer_count == 128
    refused_by(Rule.COUNT_OVER_128, counts(128, 0, 1))


def test_count_0() -> None:
    assert Diagnosis(refused_by(Rule.COUNT_ZERO, counts(0, 0, 0))).conflict == ()


# --- 4, the format ------------------------------------------------------------------------------------------------


def entries(*pairs: tuple[int, int], **fields: Any) -> Any:
    return wants(
        *(image(f, pixel_format_modifier=m, min_size=size(64, 64)) for f, m in pairs), **fields
    )


def chosen(*pairs: tuple[int, int], platform: Platform, **fields: Any) -> tuple[Any, Any]:
    settled = image_of(agree(entries(*pairs, **fields), platform=platform))
    return settled.pixel_format, settled.pixel_format_modifier


BGRA_LINEAR, BGRA_TILED = (F.B8G8R8A8, M.LINEAR), (F.B8G8R8A8, M.INTEL_I915_X_TILED)
NV12 = (F.NV12, M.LINEAR)


def test_the_cheapest_format() -> None:
    costs = Platform(format_costs=(FormatCost(*NV12, cost=1), FormatCost(*BGRA_LINEAR, cost=2)))
    assert chosen(BGRA_LINEAR, NV12, platform=costs) == NV12


def test_cost_depends_on_the_usage_of_all() -> None:
    costs = Platform(format_costs=(FormatCost(*NV12, BufferUsage(video=1), 1),))
    assert chosen(BGRA_LINEAR, NV12, platform=costs) == BGRA_LINEAR
    both = [entries(BGRA_LINEAR, NV12), wants(usage=BufferUsage(video=1))]
    assert image_of(agree(*both, platform=costs)).pixel_format == F.NV12


def test_ties_by_format_then_modifier_number() -> None:
    assert chosen(NV12, BGRA_TILED, BGRA_LINEAR, platform=Platform()) == BGRA_LINEAR
    tied = Platform(format_costs=(FormatCost(*NV12, cost=1), FormatCost(*BGRA_TILED, cost=1)))
    assert chosen(NV12, BGRA_TILED, BGRA_LINEAR, platform=tied) == BGRA_TILED


def test_a_secure_heap_skips_what_cannot_live_in_protected_memory() -> None:
    platform = Platform(heaps=(SECURE_HEAP,))
    te = (F.B8G8R8A8, M.ARM_LINEAR_TE)
    secure = {
        "usage": DISPLAY,
        "buffer_memory_constraints": memory(secure_required=True),
    }
    assert chosen(te, NV12, platform=platform, **secure) == NV12
    refused_by(Rule.NO_PROTECTED_FORMAT, entries(te, **secure), platform=platform)
    permitted = {
        "usage": DISPLAY,
        "buffer_memory_constraints": memory(permitted_heaps=[heap(SECURE_HEAP)]),
    }
    assert chosen(te, NV12, platform=platform, **permitted) == NV12


def test_an_unnamed_modifier_is_delivered_as_its_number() -> None:
    assert chosen((F.B8G8R8A8, 0x0800000000000811), platform=Platform()) == (
        F.B8G8R8A8,
        0x0800000000000811,
    )


@pytest.mark.parametrize(
    ("pixel_format", "sent", "delivered"),
    [
        (F.B8G8R8A8, True, True),
        (F.B8G8R8X8, False, False),
        (F.B8G8R8A8, None, None),
        (F.NV12, True, None),
        (F.R8, False, None),
    ],
)
def test_is_alpha_present_without_an_a_or_x_channel_is_un_set(
    pixel_format: int, sent: bool | None, delivered: bool | None
) -> None:
    constraints = wants(image(pixel_format, is_alpha_present=sent, min_size=size(2, 2)))
    assert image_of(agree(constraints)).is_alpha_present is delivered


# --- 5, the image -------------------------------------------------------------------------------------------------


def raw(**fields: Any) -> int:
    """Return size_bytes for one R8 entry."""
    total = memory_of(agree(wants(image(**{"min_size": size(1, 1), **fields})))).size_bytes
    assert total is not None
    return total


def test_size_of_the_smallest_image_without_required_sizes() -> None:
    assert raw(min_size=size(10, 7)) == 70


def test_size_of_the_required_image() -> None:
    assert raw(required_max_size=size(10, 7)) == 70
    assert raw(required_max_size_list=[size(10, 7), size(3, 30)]) == 90
    assert raw(min_size=size(20, 1), required_max_size_list=[size(10, 7)]) == 140


def test_required_sizes_are_rounded_up_to_size_alignment() -> None:
    assert raw(size_alignment=size(4, 8), required_max_size=size(10, 7)) == 12 * 8


def test_rows_are_at_least_min_bytes_per_row_and_multiples_of_the_divisor() -> None:
    assert raw(required_max_size=size(10, 7), min_bytes_per_row=16) == 16 * 7
    assert raw(required_max_size=size(10, 7), bytes_per_row_divisor=64) == 64 * 7


@pytest.mark.parametrize("required", [(U32, 1), (1, U32)])
def test_a_size_rounded_up_over_max_size(required: tuple[int, int]) -> None:
    """This is possible only without a limit, because any other maximum is rounded down to the alignment."""
    one = image(min_size=size(1, 1), required_max_size=size(*required))
    refused_by(Rule.REQUIRED_SIZE_OVER_MAX, wants(one), wants(image(size_alignment=size(4, 4))))


def test_rows_over_max_bytes_per_row() -> None:
    refusal = refused_by(
        Rule.REQUIRED_ROW,
        wants(image(min_size=size(1, 1), required_max_size=size(10, 7))),
        wants(image(max_bytes_per_row=9)),
    )
    assert [str(who) for who in Diagnosis(refusal).conflict] == ["p0 (0)", "p1 (1)"]
    assert refusal.detail == "10 > 9"


def test_area_over_max_width_times_height() -> None:
    limited = wants(image(max_width_times_height=69))
    asking = wants(image(min_size=size(1, 1), required_max_size=size(10, 7)))
    refused_by(Rule.REQUIRED_AREA, asking, limited)


def test_area_over_32_bits() -> None:
    refused_by(
        Rule.REQUIRED_AREA,
        wants(image(min_size=size(1, 1), required_max_size=size(1 << 16, 1 << 16))),
    )


def test_a_size_that_has_no_value() -> None:
    tiled = image(
        F.B8G8R8A8,
        pixel_format_modifier=M.INTEL_I915_X_TILED,
        required_max_size=size(1024, 1 << 20),
    )
    refused_by(Rule.IMAGE_SIZE_UNDEFINED, wants(tiled))


def test_image_over_max_size_bytes() -> None:
    limit = wants(buffer_memory_constraints=memory(max_size_bytes=69))
    refused_by(Rule.IMAGE_OVER_MAX_BYTES, wants(image(min_size=size(10, 7))), limit)


def test_goldfish_is_sized_without_a_minimum_row() -> None:
    goldfish = image(
        F.B8G8R8A8, pixel_format_modifier=M.GOOGLE_GOLDFISH_OPTIMAL, min_size=size(64, 128)
    )
    assert memory_of(agree(wants(goldfish))).size_bytes == 64 * 4 * 128


# --- 6, padding ---------------------------------------------------------------------------------------------------


def test_size_bytes_is_at_least_min_size_bytes() -> None:
    settled = memory_of(agree(wants(image(min_size=size(10, 7)), min_size_bytes=5000)))
    assert (settled.size_bytes, settled.raw_vmo_size) == (5000, 8192)


def test_padding_raises_the_vmo_only() -> None:
    entry = image(min_size=size(100, 41), pad_beyond_image_size_bytes=100)
    settled = memory_of(agree(wants(entry)))
    assert (settled.size_bytes, settled.raw_vmo_size) == (4100, 8192)


def test_page_size_is_the_platforms() -> None:
    platform = Platform(page_size=16384)
    assert memory_of(agree(wants(min_size_bytes=1), platform=platform)).raw_vmo_size == 16384


def test_padded_size_over_max_size_bytes() -> None:
    entry = image(min_size=size(10, 10), pad_beyond_image_size_bytes=1)
    limit = wants(buffer_memory_constraints=memory(max_size_bytes=100))
    refusal = refused_by(Rule.PADDED_OVER_MAX_BYTES, wants(entry), limit)
    assert len(Diagnosis(refusal).conflict) == 2


def test_a_padded_size_that_cannot_be_worked_out() -> None:
    entry = image(
        min_size=size(1, (1 << 31) + 1),
        max_size=size(1, U32),
        pad_for_block_size=size(1, 1 << 31),
    )
    refused_by(
        Rule.PADDING_UNDEFINED,
        wants(entry),
        platform=Platform(max_buffer_bytes=1 << 40, max_collection_bytes=1 << 50),
    )


# --- 7, limits ----------------------------------------------------------------------------------------------------


def test_one_buffer_over_256_mib() -> None:
    agree(wants(min_size_bytes=256 * MIB))
    refused_by(Rule.BUFFER_LIMIT, wants(min_size_bytes=256 * MIB + 1))


def test_all_buffers_over_1_gib() -> None:
    agree(wants(min_size_bytes=128 * MIB, count=8))
    refused_by(Rule.COLLECTION_LIMIT, wants(min_size_bytes=128 * MIB + 1, count=8))


def test_limits_count_padding() -> None:
    padded = image(min_size=size(1, 1), pad_beyond_image_size_bytes=1)
    refused_by(Rule.BUFFER_LIMIT, wants(padded, min_size_bytes=256 * MIB))
    refused_by(Rule.COLLECTION_LIMIT, wants(padded, min_size_bytes=128 * MIB, count=8))
    agree(wants(padded, min_size_bytes=128 * MIB - 1, count=8))
    platform = Platform(max_allocation_bytes=4096)
    agree(wants(padded, min_size_bytes=4096), platform=platform)


def test_size_bytes_over_max_allocation_bytes() -> None:
    platform = Platform(max_allocation_bytes=4096)
    refused_by(Rule.ALLOCATION_LIMIT, wants(min_size_bytes=4097), platform=platform)


def test_limits_are_settings() -> None:
    small = Platform(max_buffer_bytes=10, max_collection_bytes=15)
    agree(wants(min_size_bytes=10), platform=small)
    refused_by(Rule.BUFFER_LIMIT, wants(min_size_bytes=11), platform=small)
    refused_by(Rule.COLLECTION_LIMIT, wants(min_size_bytes=8, count=2), platform=small)


# --- who is named -------------------------------------------------------------------------------------------------


def named(refusal: Refusal) -> set[tuple[str, str]]:
    """Return the participants and fields that a refusal's line names."""
    parts = [
        part.split(" = ")[0].split(" ")
        for part in Diagnosis(refusal).line(conflict=False).split("; ")
    ]
    return {(who, re.sub(r".*\]\.|\$\.", "", path[-1])) for who, *path in parts[1:]}


ROWS = (
    wants(image(min_size=size(100, 100))),
    wants(image(bytes_per_row_divisor=4096)),
)
ROWS_NAMED = {
    ("p0", "min_size.width"),
    ("p0", "min_size.height"),
    ("p1", "bytes_per_row_divisor"),
}


def test_a_limit_names_what_made_the_image_this_big() -> None:
    refusal = refused_by(Rule.BUFFER_LIMIT, *ROWS, platform=Platform(max_buffer_bytes=50000))
    assert named(refusal) == ROWS_NAMED
    refusal = refused_by(Rule.ALLOCATION_LIMIT, *ROWS, platform=Platform(max_allocation_bytes=9999))
    assert named(refusal) == ROWS_NAMED
    refusal = refused_by(
        Rule.COLLECTION_LIMIT, *ROWS, platform=Platform(max_collection_bytes=500000)
    )
    counts = {(who, "min_buffer_count_for_camping") for who in ("p0", "p1")}
    assert named(refusal) == ROWS_NAMED | counts


def test_a_limit_names_what_made_the_buffer_this_big() -> None:
    least = wants(min_size_bytes=100)
    small = Platform(max_buffer_bytes=99)
    bytes_named = ("p1", "buffer_memory_constraints.min_size_bytes")
    entry = wants(image(min_size=size(10, 9)))
    assert named(refused_by(Rule.BUFFER_LIMIT, entry, least, platform=small)) == {bytes_named}
    entry = wants(image(min_size=size(10, 10)))
    assert named(refused_by(Rule.BUFFER_LIMIT, entry, least, platform=small)) == {
        ("p0", "min_size.width"),
        ("p0", "min_size.height"),
        bytes_named,
    }
    entry = wants(image(min_size=size(1, 1), pad_beyond_image_size_bytes=1))
    small = Platform(max_buffer_bytes=100)
    assert named(refused_by(Rule.BUFFER_LIMIT, entry, least, platform=small)) == {
        ("p0", "pad_beyond_image_size_bytes"),
        bytes_named,
    }


def test_an_image_over_max_size_bytes_names_all_that_made_it() -> None:
    limit = wants(buffer_memory_constraints=memory(max_size_bytes=50000))
    refusal = refused_by(Rule.IMAGE_OVER_MAX_BYTES, *ROWS, limit)
    maximum = ("p2", "buffer_memory_constraints.max_size_bytes")
    assert named(refusal) == {*ROWS_NAMED, maximum}
    padding = wants(image(pad_beyond_image_size_bytes=1))
    exact = wants(buffer_memory_constraints=memory(max_size_bytes=409600))
    refusal = refused_by(Rule.PADDED_OVER_MAX_BYTES, *ROWS, exact, padding)
    assert named(refusal) == {*ROWS_NAMED, maximum, ("p3", "pad_beyond_image_size_bytes")}


def test_rows_and_areas_name_deprecated_sizes() -> None:
    required = wants(image(required_max_size=size(100, 3), min_size=size(2, 4)))
    limit = wants(image(max_bytes_per_row=99))
    refusal = refused_by(Rule.REQUIRED_ROW, required, limit)
    assert named(refusal) == {("p0", "required_max_size"), ("p1", "max_bytes_per_row")}
    limit = wants(image(max_width_times_height=300))
    refusal = refused_by(Rule.REQUIRED_AREA, required, limit)
    assert named(refusal) == {
        ("p0", "required_max_size"),
        ("p0", "min_size.height"),
        ("p1", "max_width_times_height"),
    }


def test_of_all_required_sizes_the_one_that_does_not_fit_is_named() -> None:
    fits = wants(image(required_max_size_list=[size(8, 8)]))
    big = wants(image(required_max_size_list=[size(4, 4), size(80, 2)]))
    limit = wants(image(max_size=size(70, 70)))
    refusal = refused_by(Rule.REQUIRED_MAX_OVER_MAX, fits, big, limit)
    assert named(refusal) == {("p1", "required_max_size_list"), ("p2", "max_size.width")}
    aligned = wants(image(size_alignment=size(64, 1), max_size=size(100, 100)))
    refusal = refused_by(Rule.REQUIRED_MAX_OVER_MAX, fits, big, aligned)
    assert refusal.detail == "80 > 64"
    assert named(refusal) == {
        ("p1", "required_max_size_list"),
        ("p2", "size_alignment.width"),
        ("p2", "max_size.width"),
    }


def test_padding_names_what_made_the_image_too() -> None:
    required = wants(image(required_max_size_list=[size(8, 8)]))
    blocks = image(
        max_size=size(8, 64), pad_for_block_size=size(8, 8), pad_beyond_image_size_bytes=1
    )
    padding = wants(blocks)
    limit = wants(image(), buffer_memory_constraints=memory(max_size_bytes=64))
    refusal = refused_by(Rule.PADDED_OVER_MAX_BYTES, required, padding, limit)
    assert named(refusal) == {
        ("p0", "required_max_size_list"),
        ("p1", "pad_for_block_size.width"),
        ("p1", "pad_for_block_size.height"),
        ("p1", "pad_beyond_image_size_bytes"),
        ("p2", "buffer_memory_constraints.max_size_bytes"),
    }


# --- what is delivered --------------------------------------------------------------------------------------------


def test_every_field_is_delivered() -> None:
    settled = agree(wants(image(F.B8G8R8A8, is_alpha_present=True, min_size=size(1, 1))))
    fields = {member.name for member, _ in image_of(settled).set_fields()}
    everything = {member.name for member in image_of(settled).members}
    assert everything - fields == {"pixel_format_and_modifiers"}
    assert len(list(memory_of(settled).set_fields())) == 6
