"""`docs/spec/constraints.md`, section 4: checks on the aggregate."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem_protocol.sysmem2 import BufferUsage
from sysmemd.constraints import Rule, Stage
from sysmemd.explaining import Diagnosis

from .support import C, F, M, agree, image, image_of, memory, memory_of, refused_by, size, wants

NONE = BufferUsage(none=1)


def test_somebody_must_use_the_buffers() -> None:
    refusal = refused_by(
        Rule.NOBODY_USES, wants(usage=NONE, min_size_bytes=1), wants(usage=NONE), None
    )
    assert refusal.stage is Stage.AGGREGATE
    assert Diagnosis(refusal).conflict == ()
    agree(wants(usage=NONE, min_size_bytes=1), wants())


def test_or_permit_allocation_without_usage() -> None:
    agree(wants(usage=BufferUsage(none=3), min_size_bytes=1), wants(usage=NONE))


@pytest.mark.parametrize(
    ("rule", "one", "other"),
    [
        (Rule.MIN_COUNT_OVER_MAX, {"min_buffer_count": 4}, {"max_buffer_count": 3}),
        (
            Rule.MIN_BYTES_OVER_MAX,
            {"buffer_memory_constraints": memory(min_size_bytes=4)},
            {"buffer_memory_constraints": memory(max_size_bytes=3)},
        ),
        (
            Rule.MIN_BYTES_OVER_MAX,
            {"image_format_constraints": [image(min_size=size(1, 1))]},
            {"buffer_memory_constraints": memory(max_size_bytes=0)},
        ),
    ],
)
def test_fields_again(rule: Rule, one: dict[str, Any], other: dict[str, Any]) -> None:
    base = wants(image(min_size=size(1, 1)))
    first, second = wants(), wants()
    for constraints, fields in ((first, one), (second, other)):
        for name, value in fields.items():
            setattr(constraints, name, value)
    assert refused_by(rule, base, first, second).stage is Stage.AGGREGATE


@pytest.mark.parametrize(
    ("rule", "one", "other"),
    [
        (Rule.MIN_SIZE_OVER_MAX, {"min_size": size(9, 1)}, {"max_size": size(8, 8)}),
        (Rule.MIN_SIZE_OVER_MAX, {"min_size": size(1, 9)}, {"max_size": size(8, 8)}),
        (
            Rule.MIN_SIZE_OVER_MAX,
            {"min_size": size(9, 9), "size_alignment": size(1, 4)},
            {"max_size": size(11, 11)},
        ),
        (Rule.MIN_ROW_OVER_MAX, {"min_bytes_per_row": 9}, {"max_bytes_per_row": 8}),
        (Rule.MIN_ROW_OVER_MAX, {"bytes_per_row_divisor": 9}, {"max_bytes_per_row": 8}),
        (
            Rule.MIN_AREA_OVER_MAX,
            {"min_size": size(9, 1)},
            {"min_size": size(1, 9), "max_width_times_height": 80},
        ),
        (Rule.MIN_AREA_OVER_MAX, {"min_size": size(1 << 16, 1)}, {"min_size": size(1, 1 << 16)}),
        (Rule.REQUIRED_MIN_UNDER_MIN, {"required_min_size": size(8, 8)}, {"min_size": size(9, 1)}),
        (Rule.REQUIRED_MAX_OVER_MAX, {"required_max_size": size(9, 1)}, {"max_size": size(8, 8)}),
        (
            Rule.REQUIRED_MAX_OVER_MAX,
            {"required_max_size_list": [size(9, 1)]},
            {"max_size": size(8, 8)},
        ),
        (
            Rule.REQUIRED_MAX_OVER_MAX,
            {"max_size": size(9, 9), "required_max_size": size(9, 1)},
            {"size_alignment": size(4, 1)},
        ),
    ],
)
def test_image_fields_again(rule: Rule, one: dict[str, Any], other: dict[str, Any]) -> None:
    refusal = refused_by(
        rule, wants(image(), min_size_bytes=1), wants(image(**one)), wants(image(**other))
    )
    assert refusal.stage is Stage.AGGREGATE
    assert refusal.pair == (F.R8, M.LINEAR)
    assert [str(who) for who in Diagnosis(refusal).conflict] == ["p1 (1)", "p2 (2)"]


def test_a_failed_check_of_any_entry_refuses_everything() -> None:
    two = wants(image(F.R8, min_size=size(9, 9)), image(F.L8, min_size=size(1, 1)))
    refused_by(Rule.MIN_SIZE_OVER_MAX, two, wants(image(F.R8, max_size=size(8, 8)), image(F.L8)))


def test_adjustments_again() -> None:
    one = wants(image(F.B8G8R8A8, min_size=size(5, 1), bytes_per_row_divisor=16))
    other = wants(image(F.B8G8R8A8, size_alignment=size(4, 1), max_size=size(31, 31)))
    settled = image_of(agree(one, other))
    assert settled.min_size == size(8, 1)
    assert settled.max_size == size(28, 31)
    assert settled.min_bytes_per_row == 32
    assert settled.bytes_per_row_divisor == 16


def test_adjustments_of_a_format_made_specific_by_filling_in() -> None:
    boundary = image(
        F.DO_NOT_CARE,
        min_size=size(5, 5),
        bytes_per_row_divisor=5,
        require_bytes_per_row_at_pixel_boundary=True,
    )
    settled = image_of(agree(wants(boundary), wants(image(F.B8G8R8))))
    assert settled.bytes_per_row_divisor == 15
    nv12 = image_of(agree(wants(boundary), wants(image(F.NV12))))
    assert (nv12.size_alignment, nv12.min_size) == (size(2, 2), size(6, 6))
    assert nv12.start_offset_divisor == 2


def test_an_lcm_that_only_the_aggregate_needs_refuses() -> None:
    boundary = image(
        F.DO_NOT_CARE,
        bytes_per_row_divisor=0xFFFFFFFD,
        require_bytes_per_row_at_pixel_boundary=True,
    )
    refused_by(
        Rule.DIVISOR_OVER_32_BITS, wants(boundary), wants(image(F.R5G6B5, min_size=size(1, 1)))
    )


def test_padding_in_height_with_31_bits_of_width() -> None:
    def padded(width: int) -> Any:
        return wants(
            image(min_size=size(4, 4), max_size=size(width, 4), pad_for_block_size=size(1, 4))
        )

    refused_by(Rule.PAD_MAX_WIDTH_31_BITS, padded(0x80000000))
    agree(padded(0x7FFFFFFF))


def test_entries_left_open_are_dropped() -> None:
    partly = [
        wants(
            image(F.R8, pixel_format_modifier=M.DO_NOT_CARE),
            image(F.L8, pixel_format_modifier=M.LINEAR, min_size=size(1, 1)),
        )
    ]
    assert image_of(agree(*partly)).pixel_format == F.L8


def test_if_that_leaves_none_it_is_empty() -> None:
    left_open = wants(image(F.DO_NOT_CARE, min_size=size(1, 1)))
    refused_by(Rule.FORMAT_LEFT_OPEN, left_open, left_open)
    half = wants(image(F.R8, pixel_format_modifier=M.DO_NOT_CARE, min_size=size(1, 1)))
    assert Diagnosis(refused_by(Rule.FORMAT_LEFT_OPEN, half, left_open)).conflict == ()


def test_without_image_entries_buffers_are_raw() -> None:
    settled = agree(wants(min_size_bytes=5))
    assert settled.settings.image_format_constraints is None
    assert memory_of(settled).size_bytes == 5


def test_entries_whose_color_space_is_open_are_dropped() -> None:
    r8, l8 = image(F.R8, [C.DO_NOT_CARE], min_size=size(1, 1)), image(F.L8, min_size=size(1, 1))
    assert image_of(agree(wants(r8, l8))).pixel_format == F.L8
    refused_by(Rule.COLOR_SPACE_LEFT_OPEN, wants(r8))


ORDER = [
    "SRGB",
    "REC2100",
    "REC2020",
    "REC709",
    "REC601_PAL_FULL_RANGE",
    "REC601_PAL",
    "REC601_NTSC_FULL_RANGE",
    "REC601_NTSC",
    "PASSTHROUGH",
]


@pytest.mark.parametrize("index", range(9))
def test_the_most_preferred_color_space_is_left(index: int) -> None:
    chosen = C[ORDER[index]]
    pixel_format = F.R8 if chosen is C.SRGB else F.P010
    rest = [C[name] for name in ORDER[index:] if name != "SRGB" or chosen is C.SRGB]
    if chosen is C.SRGB:
        rest = [C.PASSTHROUGH, C.REC709, C.SRGB]
    settled = image_of(agree(wants(image(pixel_format, rest[::-1], min_size=size(2, 2)))))
    assert settled.color_spaces == [chosen]
