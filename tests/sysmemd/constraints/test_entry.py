"""`docs/spec/constraints.md`, section 1: the table of image fields, row by row."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem_protocol.formats import traits
from sysmem_protocol.images2 import ColorSpace
from sysmemd.constraints import Rule
from sysmemd.constraints.entry import adjust
from sysmemd.constraints.rules import Breach
from sysmemd.constraints.terms import Terms, read_terms
from sysmemd.explaining import Diagnosis

from .support import U32, U64, C, F, M, image, refused_by, size, wants

R8, BGRA, NV12 = (F.R8, M.LINEAR), (F.B8G8R8A8, M.LINEAR), (F.NV12, M.LINEAR)
RGB24 = (F.B8G8R8, M.LINEAR)
Pair = tuple[int, int]


def adjusted(pair: Pair | None = R8, spaces: list[Any] | None = None, **fields: Any) -> Terms:
    entry = image(None, spaces or [C.PASSTHROUGH], **fields)
    return adjust(read_terms(entry), None if pair is None else traits(*pair), 4096)


def breach(rule: Rule, pair: Pair | None = R8, **fields: Any) -> Breach:
    with pytest.raises(Breach) as caught:
        adjusted(pair, **fields)
    assert caught.value.rule is rule
    return caught.value


def test_defaults() -> None:
    t = adjusted(None)
    assert (t.min_width, t.min_height) == (1, 1)  # 0,0 raised to size_alignment
    assert (t.max_width, t.max_height) == (U32, U32)
    assert (t.min_bytes_per_row, t.max_bytes_per_row) == (1, U32)
    assert t.max_width_times_height == U64
    assert (t.align_width, t.align_height) == (1, 1)
    assert (t.display_align_width, t.display_align_height) == (1, 1)
    assert (t.required_min_width, t.required_min_height) == (U32, U32)
    assert (t.required_max_width, t.required_max_height) == (0, 0)
    assert (t.bytes_per_row_divisor, t.start_offset_divisor) == (1, 1)
    assert (t.at_pixel_boundary, t.is_alpha_present, t.required_max_sizes) == (False, None, ())
    assert (t.pad_width, t.pad_height, t.pad_beyond) == (1, 1, 0)


@pytest.mark.parametrize(
    "field", ["size_alignment", "display_rect_alignment", "pad_for_block_size"]
)
@pytest.mark.parametrize("value", [(0, 1), (1, 0), (3, 1), (1, 6)])
def test_powers_of_2(field: str, value: tuple[int, int]) -> None:
    fields: Any = {"max_size": size(16, 16), field: size(*value)}
    found = breach(Rule.POWER_OF_2, **fields)
    assert found.fields == (field,)


def test_size_alignment_is_raised_to_the_formats_divisors() -> None:
    assert (adjusted(NV12).align_width, adjusted(NV12).align_height) == (2, 2)
    wide = adjusted(NV12, size_alignment=size(16, 1))
    assert (wide.align_width, wide.align_height) == (16, 2)


def test_min_size_is_raised_to_size_alignment_as_given_then_rounded_up() -> None:
    t = adjusted(NV12, size_alignment=size(8, 1), min_size=size(3, 3))
    assert (t.min_width, t.min_height) == (8, 4)
    assert adjusted(None, size_alignment=size(8, 8), min_size=size(9, 3)).min_width == 16


def test_bytes_per_row_divisor_is_not_0() -> None:
    breach(Rule.DIVISOR_ZERO, bytes_per_row_divisor=0)


def test_bytes_per_row_divisor_with_sample_alignment() -> None:
    assert adjusted(BGRA, bytes_per_row_divisor=6).bytes_per_row_divisor == 12
    assert adjusted(None, bytes_per_row_divisor=6).bytes_per_row_divisor == 6


def test_bytes_per_row_divisor_at_pixel_boundary() -> None:
    boundary: Any = {"bytes_per_row_divisor": 4, "require_bytes_per_row_at_pixel_boundary": True}
    assert adjusted(RGB24, **boundary).bytes_per_row_divisor == 12
    assert adjusted(None, **boundary).bytes_per_row_divisor == 4


def test_bytes_per_row_divisor_fits_32_bits() -> None:
    breach(Rule.DIVISOR_OVER_32_BITS, BGRA, bytes_per_row_divisor=U32)


def test_start_offset_divisor() -> None:
    assert adjusted(BGRA, start_offset_divisor=2).start_offset_divisor == 4
    assert adjusted(BGRA, start_offset_divisor=4096).start_offset_divisor == 4096
    breach(Rule.POWER_OF_2, BGRA, start_offset_divisor=12)
    breach(Rule.POWER_OF_2, None, start_offset_divisor=0)
    breach(Rule.START_OFFSET_PAGE, BGRA, start_offset_divisor=8192)


def test_min_bytes_per_row_is_raised_to_divisor_and_minimum_row() -> None:
    assert adjusted(BGRA, bytes_per_row_divisor=64).min_bytes_per_row == 64
    assert adjusted(BGRA, min_size=size(17, 1)).min_bytes_per_row == 68
    wide = adjusted(BGRA, min_size=size(17, 1), bytes_per_row_divisor=64)
    assert wide.min_bytes_per_row == 128
    assert adjusted(None, min_size=size(17, 1), bytes_per_row_divisor=64).min_bytes_per_row == 64
    tiled = adjusted((F.B8G8R8A8, M.INTEL_I915_X_TILED), min_size=size(17, 1))
    assert tiled.min_bytes_per_row == 512


def test_min_bytes_per_row_over_the_minimum_row_stays() -> None:
    """Blocks of pixels determine a minimum row without regard to min_bytes_per_row."""
    blocks = (F.B8G8R8A8, M.ARM_AFBC_16X16)
    assert adjusted(blocks, min_size=size(17, 1)).min_bytes_per_row == 128
    longer = adjusted(blocks, min_size=size(17, 1), min_bytes_per_row=1000)
    assert longer.min_bytes_per_row == 1000


def test_min_bytes_per_row_is_rounded_up_to_the_divisor() -> None:
    assert adjusted(None, min_bytes_per_row=65, bytes_per_row_divisor=64).min_bytes_per_row == 128


def test_goldfish_has_no_minimum_row() -> None:
    goldfish = (F.B8G8R8A8, M.GOOGLE_GOLDFISH_OPTIMAL)
    assert adjusted(goldfish, min_size=size(17, 1)).min_bytes_per_row == 4


def test_maxima_are_rounded_down_each_component_separately() -> None:
    t = adjusted(
        max_size=size(30, U32),
        size_alignment=size(8, 8),
        max_bytes_per_row=100,
        bytes_per_row_divisor=64,
    )
    assert (t.max_width, t.max_height, t.max_bytes_per_row) == (24, U32, 64)
    tall = adjusted(max_size=size(U32, 30), size_alignment=size(8, 8))
    assert (tall.max_width, tall.max_height, tall.max_bytes_per_row) == (U32, 24, U32)


@pytest.mark.parametrize(
    ("steps", "name"),
    [
        ({"size_alignment": size(8, 8)}, "max_width"),
        ({"size_alignment": size(8, 8)}, "max_height"),
        ({"bytes_per_row_divisor": 64}, "max_bytes_per_row"),
    ],
)
def test_no_maximum_is_not_rounded_down(steps: dict[str, Any], name: str) -> None:
    assert getattr(adjusted(**steps), name) == U32


@pytest.mark.parametrize("spaces", [None, []])
def test_color_spaces_are_required(spaces: list[ColorSpace] | None) -> None:
    refusal = refused_by(Rule.COLOR_SPACES_MISSING, wants(image(F.R8, spaces), min_size_bytes=1))
    assert Diagnosis(refusal).path == "$.image_format_constraints[0].color_spaces"


def test_color_space_do_not_care_only_alone() -> None:
    both = image(F.R8, [C.DO_NOT_CARE, C.SRGB])
    refused_by(Rule.COLOR_DO_NOT_CARE_ALONE, wants(both, min_size_bytes=1))


@pytest.mark.parametrize("space", [C.INVALID, C.REC2020, 4711])
def test_specific_color_spaces_are_supported_by_a_specific_format(space: int) -> None:
    found = breach(Rule.COLOR_SPACE_UNSUPPORTED, spaces=[C.SRGB, space])
    assert found.detail == ("4711" if space == 4711 else C(space).name)
    assert adjusted(None, spaces=[C.SRGB, space]).color_spaces == frozenset({C.SRGB, space})
    assert adjusted(R8, spaces=[C.DO_NOT_CARE]).color_spaces is None


@pytest.mark.parametrize(
    "fields",
    [
        {"required_min_size": size(0, 4)},
        {"required_min_size": size(4, 0)},
        {"required_max_size_list": [size(4, 4), size(0, 4)]},
        {"required_max_size_list": [size(4, 0)]},
    ],
)
def test_required_sizes_are_not_0(fields: dict[str, Any]) -> None:
    breach(Rule.REQUIRED_SIZE_ZERO, **fields)


def test_required_max_size_may_be_0() -> None:
    assert adjusted(required_max_size=size(0, 7)).required_max_height == 7


@pytest.mark.parametrize("required", [(9, 20), (20, 9)])
def test_required_min_size_is_at_least_min_size(required: tuple[int, int]) -> None:
    breach(Rule.REQUIRED_MIN_UNDER_MIN, min_size=size(10, 10), required_min_size=size(*required))


@pytest.mark.parametrize("required", [(31, 1), (1, 31)])
def test_required_max_sizes_are_at_most_max_size(required: tuple[int, int]) -> None:
    limit: Any = {"max_size": size(30, 30)}
    breach(Rule.REQUIRED_MAX_OVER_MAX, required_max_size=size(*required), **limit)
    listed = [size(30, 30), size(*required)]
    breach(Rule.REQUIRED_MAX_OVER_MAX, required_max_size_list=listed, **limit)


@pytest.mark.parametrize("pair", [None, NV12, (F.P010, M.LINEAR), (F.R8, M.ARM_LINEAR_TE)])
@pytest.mark.parametrize("block", [(2, 1), (1, 2)])
def test_padding_is_for_specific_linear_single_plane_formats(
    pair: Pair | None, block: tuple[int, int]
) -> None:
    """Both width and height are tested (quirk 8), and P010 is refused (quirk 2)."""
    breach(Rule.PAD_FORMAT, pair, pad_for_block_size=size(*block), max_size=size(64, 64))


def test_padding_in_height_needs_a_maximal_width() -> None:
    breach(Rule.PAD_NEEDS_MAX_WIDTH, pad_for_block_size=size(1, 2))
    assert adjusted(pad_for_block_size=size(1, 2), max_size=size(64, U32)).pad_height == 2
    assert adjusted(pad_for_block_size=size(2, 1)).pad_width == 2


def test_padding_in_width_makes_rows_of_whole_blocks() -> None:
    """This also applies to a single participant's entry (quirk 10)."""
    t = adjusted(BGRA, pad_for_block_size=size(8, 1), bytes_per_row_divisor=12)
    assert t.bytes_per_row_divisor == 96
    breach(Rule.DIVISOR_OVER_32_BITS, BGRA, pad_for_block_size=size(1 << 31, 1))


@pytest.mark.parametrize("limits", [((9, 1), (8, 8)), ((1, 9), (8, 8))])
def test_min_size_is_at_most_max_size(limits: tuple[tuple[int, int], tuple[int, int]]) -> None:
    low, high = limits
    breach(Rule.MIN_SIZE_OVER_MAX, min_size=size(*low), max_size=size(*high))
    # Only rounding has this effect:
    breach(
        Rule.MIN_SIZE_OVER_MAX,
        min_size=size(17, 17),
        max_size=size(20, 20),
        size_alignment=size(16, 16),
    )


def test_min_bytes_per_row_is_at_most_max_bytes_per_row() -> None:
    breach(Rule.MIN_ROW_OVER_MAX, min_bytes_per_row=65, max_bytes_per_row=64)
    breach(Rule.MIN_ROW_OVER_MAX, BGRA, max_bytes_per_row=3)
    fields = ("min_size.width", "size_alignment.width", "bytes_per_row_divisor")
    caught = breach(Rule.MIN_ROW_OVER_MAX, bytes_per_row_divisor=64, max_bytes_per_row=63)
    assert set(fields) < set(caught.fields)
    breach(Rule.MIN_ROW_OVER_MAX, min_bytes_per_row=U32, bytes_per_row_divisor=2)


def test_min_area_is_at_most_max_width_times_height() -> None:
    breach(Rule.MIN_AREA_OVER_MAX, min_size=size(10, 10), max_width_times_height=99)
    assert adjusted(min_size=size(10, 10), max_width_times_height=100).min_width == 10


def test_min_area_fits_32_bits() -> None:
    breach(Rule.MIN_AREA_OVER_MAX, min_size=size(1 << 16, 1 << 16))


def test_a_width_near_32_bits_has_no_minimum_row_but_no_room_either() -> None:
    fields: Any = {"min_size": size(U32, 1), "size_alignment": size(1 << 31, 1)}
    breach(Rule.REQUIRED_MIN_UNDER_MIN, NV12, **fields)
