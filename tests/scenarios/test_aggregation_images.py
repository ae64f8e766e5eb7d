"""Image entries: defaults, checks, combination and choice (`docs/spec/constraints.md`, sections 1 to 5)."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem import (
    BufferUsage,
    ColorSpace,
    DisplayUsage,
    ImageFormatConstraints,
    NoneUsage,
    PixelFormat,
    PixelFormatAndModifier,
    PixelFormatModifier,
    SizeU,
    VulkanUsage,
    blocking,
)

from .scenario import (
    UNBOUNDED,
    buffer_settings,
    buffers,
    delivered,
    image,
    image_settings,
    images,
    outcome,
    refused,
    settings,
)

BGRA = PixelFormat.B8G8R8A8
RGBA = PixelFormat.R8G8B8A8
NV12 = PixelFormat.NV12
LINEAR = PixelFormatModifier.LINEAR
X_TILED = PixelFormatModifier.INTEL_I915_X_TILED
ANY_FORMAT = PixelFormat.DO_NOT_CARE
ANY_MODIFIER = PixelFormatModifier.DO_NOT_CARE
ANY_COLOR = [ColorSpace.DO_NOT_CARE]
VULKAN = BufferUsage(vulkan=VulkanUsage.IMAGE_SAMPLED)


def nv12(**fields: Any) -> ImageFormatConstraints:
    """Return the delivered entry for a lone `image(NV12)`: samples in pairs of rows and columns."""
    table: dict[str, Any] = {
        "color_spaces": [ColorSpace.REC709],
        "size_alignment": SizeU(2, 2),
        "min_bytes_per_row": 64,
        "bytes_per_row_divisor": 2,
        "start_offset_divisor": 2,
    }
    table.update(fields)
    return delivered(NV12, **table)


# The delivered fields


def test_every_field_is_set_but_an_open_is_alpha_present(client: blocking.Allocator) -> None:
    found = settings(client, images(image()))
    assert found.image_format_constraints == delivered()
    assert found.buffer_settings is not None
    assert found.buffer_settings.size_bytes == 64 * 4 * 48
    assert found.buffer_settings.raw_vmo_size == 12288


def test_false_is_delivered_as_false(client: blocking.Allocator) -> None:
    found = image_settings(client, images(image()))
    assert found.require_bytes_per_row_at_pixel_boundary is False
    assert found.is_alpha_present is None
    assert found.pixel_format_and_modifiers is None
    assert found.required_max_size == SizeU(0, 0)


def test_nv12_raises_alignments_to_its_own(client: blocking.Allocator) -> None:
    found = settings(client, images(image(NV12)))
    assert found.image_format_constraints == nv12()
    assert found.buffer_settings is not None
    assert found.buffer_settings.size_bytes == 64 * 48 * 3 // 2


def test_p010_rows_are_multiples_of_four(client: blocking.Allocator) -> None:
    found = settings(client, images(image(PixelFormat.P010)))
    assert found.image_format_constraints == delivered(
        PixelFormat.P010,
        color_spaces=[ColorSpace.REC709],
        size_alignment=SizeU(2, 2),
        min_bytes_per_row=128,
    )
    assert found.buffer_settings is not None
    assert found.buffer_settings.size_bytes == 128 * 48 * 3 // 2


def test_a_minimum_of_nothing_becomes_one_aligned_pixel(client: blocking.Allocator) -> None:
    found = image_settings(
        client, images(image(min_size=None, size_alignment=SizeU(16, 2))), buffers(100)
    )
    assert found == delivered(
        min_size=SizeU(16, 2), size_alignment=SizeU(16, 2), min_bytes_per_row=64
    )


def test_image_and_raw_size_the_larger_wins(client: blocking.Allocator) -> None:
    assert buffer_settings(client, images(image()), buffers(20000)).size_bytes == 20000
    assert buffer_settings(client, images(image()), buffers(10)).size_bytes == 12288


# Section 0: somebody must ask for a size


def test_an_image_without_any_size_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, images(image(min_size=None)))
    assert refused(client, images(image(min_size=SizeU(64, 0))))
    assert refused(client, images(image(min_size=None, required_max_size=SizeU(0, 48))))


@pytest.mark.parametrize(
    "fields",
    [
        {"required_max_size": SizeU(64, 48)},
        {"required_max_size_list": [SizeU(64, 48)]},
    ],
)
def test_a_required_maximum_asks_for_a_size(
    client: blocking.Allocator, fields: dict[str, Any]
) -> None:
    found = buffer_settings(client, images(image(min_size=None, **fields)))
    assert found.size_bytes == 12288


# 1: formats


def test_an_entry_without_a_format_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, images(image(None)))
    assert refused(client, images(image(None, pixel_format_and_modifiers=[])))


def test_a_modifier_without_a_format_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, images(image(None, pixel_format_modifier=LINEAR)))
    pair = [PixelFormatAndModifier(BGRA, LINEAR)]
    assert refused(
        client, images(image(None, pixel_format_modifier=LINEAR, pixel_format_and_modifiers=pair))
    )


def test_a_list_of_formats_alone_is_enough(client: blocking.Allocator) -> None:
    pair = [PixelFormatAndModifier(BGRA, LINEAR)]
    assert image_settings(client, images(image(None, pixel_format_and_modifiers=pair))) == (
        delivered()
    )


def test_the_single_format_and_the_list_are_alternatives(client: blocking.Allocator) -> None:
    both = images(image(BGRA, pixel_format_and_modifiers=[PixelFormatAndModifier(RGBA, LINEAR)]))
    assert image_settings(client, both) == delivered(RGBA)
    assert image_settings(client, both, images(image(BGRA))) == delivered(BGRA)


@pytest.mark.parametrize(
    ("pixel_format", "modifier"),
    [
        (PixelFormat.INVALID, LINEAR),
        (BGRA, PixelFormatModifier.INVALID),
        (PixelFormat.INVALID, None),
        (PixelFormat.MJPEG, LINEAR),
        (NV12, PixelFormatModifier.ARM_AFBC_16X16),
        (PixelFormat.R8, X_TILED),
        (BGRA, 0x0100000001000001),
        (BGRA, 0x0800000000000000),
        (9999, LINEAR),
        (9999, PixelFormatModifier.GOOGLE_GOLDFISH_OPTIMAL),
        (PixelFormat.MJPEG, PixelFormatModifier.GOOGLE_GOLDFISH_OPTIMAL),
    ],
)
def test_unsupported_formats_are_empty(
    client: blocking.Allocator, pixel_format: int, modifier: int | None
) -> None:
    entry = image(
        pixel_format, pixel_format_modifier=modifier, color_spaces=[ColorSpace.PASSTHROUGH]
    )
    assert refused(client, images(entry))
    # This holds also with a valid entry beside it, because it is a check and not a failed combination.
    assert refused(client, images(entry, image(RGBA)))


@pytest.mark.parametrize(
    ("pixel_format", "modifier"),
    [
        (BGRA, 0x0800000000000811),
        (BGRA, PixelFormatModifier.GOOGLE_GOLDFISH_OPTIMAL),
        (PixelFormat.R3G3B2, PixelFormatModifier.ARM_LINEAR_TE),
        (NV12, PixelFormatModifier.INTEL_I915_Y_TILED_CCS),
    ],
)
def test_formats_of_the_table_are_supported(
    client: blocking.Allocator, pixel_format: int, modifier: int
) -> None:
    entry = image(
        pixel_format, pixel_format_modifier=modifier, color_spaces=[ColorSpace.PASSTHROUGH]
    )
    found = image_settings(client, images(entry))
    assert (found.pixel_format, found.pixel_format_modifier) == (pixel_format, modifier)


def test_an_unset_modifier_is_linear_for_a_user_and_open_for_usage_none(
    client: blocking.Allocator,
) -> None:
    tiled = images(image(pixel_format_modifier=X_TILED))
    assert refused(client, tiled, images(image()))
    idle = images(image(), usage=BufferUsage(none=NoneUsage.NONE_USAGE))
    info = outcome(client, tiled, idle)
    assert not isinstance(info, int)
    with info:
        assert info.settings is not None
        assert info.settings.image_format_constraints is not None
        assert info.settings.image_format_constraints.pixel_format_modifier == X_TILED


def test_an_unset_modifier_of_any_format_is_open(client: blocking.Allocator) -> None:
    found = image_settings(
        client, images(image(ANY_FORMAT)), images(image(pixel_format_modifier=X_TILED))
    )
    assert found.pixel_format_modifier == X_TILED


def test_equal_formats_of_one_participant_are_empty(client: blocking.Allocator) -> None:
    assert refused(client, images(image(), image()))
    pair = PixelFormatAndModifier(BGRA, LINEAR)
    assert refused(client, images(image(pixel_format_and_modifiers=[pair])))
    assert refused(client, images(image(None, pixel_format_and_modifiers=[pair, pair])))


def test_combinable_formats_of_one_participant_are_empty(client: blocking.Allocator) -> None:
    open_modifier = image(BGRA, pixel_format_modifier=ANY_MODIFIER)
    assert refused(client, images(open_modifier, image(BGRA)))
    assert refused(client, images(image(ANY_FORMAT), image(BGRA)))
    # AFBC and NV12 can't be combined into a supported pair, so these two are allowed together.
    afbc = image(ANY_FORMAT, pixel_format_modifier=PixelFormatModifier.ARM_AFBC_16X16)
    apart = images(afbc, image(NV12, pixel_format_modifier=ANY_MODIFIER))
    assert not refused(client, apart, images(image(NV12)))


# Section 1: checks of an entry


@pytest.mark.parametrize(
    "fields",
    [
        {"size_alignment": SizeU(0, 1)},
        {"size_alignment": SizeU(1, 3)},
        {"display_rect_alignment": SizeU(1, 0)},
        {"display_rect_alignment": SizeU(6, 1)},
        {"bytes_per_row_divisor": 0},
        {"start_offset_divisor": 24},
        {"start_offset_divisor": 8192},
        {"color_spaces": None},
        {"color_spaces": []},
        {"color_spaces": [ColorSpace.DO_NOT_CARE, ColorSpace.SRGB]},
        {"color_spaces": [ColorSpace.SRGB, ColorSpace.REC709]},
        {"color_spaces": [ColorSpace.INVALID]},
        {"color_spaces": [77]},
        {"required_min_size": SizeU(0, 48)},
        {"required_min_size": SizeU(63, 48)},
        {"required_max_size": SizeU(101, 1), "max_size": SizeU(100, 100)},
        {"required_max_size_list": [SizeU(0, 10)]},
        {"required_max_size_list": [SizeU(10, 0)]},
        {"required_max_size_list": [SizeU(10, 101)], "max_size": SizeU(100, 100)},
        {"max_size": SizeU(63, 48)},
        {"max_size": SizeU(64, 47)},
        {"max_size": SizeU(71, 48), "size_alignment": SizeU(8, 1), "min_size": SizeU(65, 48)},
        {"min_bytes_per_row": 300, "max_bytes_per_row": 299},
        {"max_bytes_per_row": 255},
        {"max_width_times_height": 64 * 48 - 1},
        {"min_size": SizeU(65536, 65536)},
        {"pad_for_block_size": SizeU(3, 1)},
        {"pad_for_block_size": SizeU(0, 1)},
        {"pad_for_block_size": SizeU(1, 2)},
    ],
    ids=repr,
)
def test_an_entry_that_fails_a_check_is_empty(
    client: blocking.Allocator, fields: dict[str, Any]
) -> None:
    assert refused(client, images(image(**fields)))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"size_alignment": SizeU(128, 1)}, {"min_size": SizeU(128, 48), "min_bytes_per_row": 512}),
        (
            {"size_alignment": SizeU(8, 8), "min_size": SizeU(65, 48)},
            {"min_size": SizeU(72, 48), "min_bytes_per_row": 288},
        ),
        (
            {"max_size": SizeU(107, 103), "size_alignment": SizeU(8, 4)},
            {"max_size": SizeU(104, 100)},
        ),
        (
            {"max_size": SizeU(107, UNBOUNDED), "size_alignment": SizeU(8, 4)},
            {"max_size": SizeU(104, UNBOUNDED)},
        ),
        ({"bytes_per_row_divisor": 6}, {"bytes_per_row_divisor": 12, "min_bytes_per_row": 264}),
        ({"min_bytes_per_row": 301}, {"min_bytes_per_row": 304}),
        ({"max_bytes_per_row": 303}, {"max_bytes_per_row": 300}),
        ({"start_offset_divisor": 0}, {"start_offset_divisor": 4}),
        ({"start_offset_divisor": 3}, {"start_offset_divisor": 4}),
        ({"start_offset_divisor": 4096}, {"start_offset_divisor": 4096}),
        ({"display_rect_alignment": SizeU(2, 8)}, {"display_rect_alignment": SizeU(2, 8)}),
        ({"required_min_size": SizeU(64, 48)}, {"required_min_size": SizeU(64, 48)}),
        ({"is_alpha_present": False}, {"is_alpha_present": False}),
        ({"is_alpha_present": True}, {"is_alpha_present": True}),
        ({"max_width_times_height": 3072}, {"max_width_times_height": 3072}),
        ({"max_bytes_per_row": 256}, {"max_bytes_per_row": 256}),
        ({"pad_beyond_image_size_bytes": 16}, {"pad_beyond_image_size_bytes": 16}),
        (
            {"require_bytes_per_row_at_pixel_boundary": True, "bytes_per_row_divisor": 6},
            {
                "require_bytes_per_row_at_pixel_boundary": True,
                "bytes_per_row_divisor": 12,
                "min_bytes_per_row": 264,
            },
        ),
    ],
    ids=repr,
)
def test_an_entry_is_adjusted(
    client: blocking.Allocator, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    given = {name: fields[name] for name in ("size_alignment",) if name in fields}
    assert image_settings(client, images(image(**fields))) == delivered(**given, **expected)


def test_rows_at_pixel_boundaries_are_multiples_of_whole_pixels(
    client: blocking.Allocator,
) -> None:
    # 3 bytes a pixel: a sample is one byte, so only the flag introduces the factor 3.
    rgb = PixelFormat.R8G8B8
    plain = image_settings(client, images(image(rgb, bytes_per_row_divisor=4)))
    assert (plain.bytes_per_row_divisor, plain.min_bytes_per_row) == (4, 192)
    entry = image(
        rgb,
        bytes_per_row_divisor=4,
        require_bytes_per_row_at_pixel_boundary=True,
        min_size=SizeU(65, 48),
    )
    whole = image_settings(client, images(entry))
    assert (whole.bytes_per_row_divisor, whole.min_bytes_per_row) == (12, 204)


def test_a_divisor_over_32_bits_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, images(image(bytes_per_row_divisor=0xFFFFFFFF)))


def test_the_default_of_required_min_size_is_no_requirement(client: blocking.Allocator) -> None:
    found = image_settings(
        client,
        images(image(required_min_size=SizeU(100, 50))),
        images(image(required_min_size=SizeU(90, 60))),
    )
    assert found.required_min_size == SizeU(90, 50)


# 2: combination


def test_two_participants_combine_field_by_field(client: blocking.Allocator) -> None:
    first = image(
        min_size=SizeU(64, 100),
        max_size=SizeU(1000, 400),
        min_bytes_per_row=512,
        max_bytes_per_row=8000,
        max_width_times_height=300000,
        size_alignment=SizeU(4, 2),
        display_rect_alignment=SizeU(2, 1),
        bytes_per_row_divisor=8,
        start_offset_divisor=64,
        pad_beyond_image_size_bytes=10,
        color_spaces=[ColorSpace.PASSTHROUGH, ColorSpace.SRGB],
    )
    second = image(
        min_size=SizeU(120, 48),
        max_size=SizeU(800, 600),
        max_bytes_per_row=9000,
        max_width_times_height=200000,
        size_alignment=SizeU(2, 4),
        display_rect_alignment=SizeU(1, 8),
        bytes_per_row_divisor=12,
        start_offset_divisor=16,
        pad_beyond_image_size_bytes=7,
        require_bytes_per_row_at_pixel_boundary=True,
        is_alpha_present=True,
    )
    found = settings(client, images(first), images(second))
    assert found.image_format_constraints == delivered(
        min_size=SizeU(120, 100),
        max_size=SizeU(800, 400),
        min_bytes_per_row=528,  # 512 rounded up to a multiple of 24
        max_bytes_per_row=7992,  # 8000 rounded down to a multiple of 24
        max_width_times_height=200000,
        size_alignment=SizeU(4, 4),
        display_rect_alignment=SizeU(2, 8),
        bytes_per_row_divisor=24,
        start_offset_divisor=64,
        pad_beyond_image_size_bytes=10,
        require_bytes_per_row_at_pixel_boundary=True,
        is_alpha_present=True,
    )
    assert found.buffer_settings is not None
    assert found.buffer_settings.size_bytes == 528 * 100


def test_participants_without_image_entries_do_not_constrain(client: blocking.Allocator) -> None:
    assert image_settings(client, buffers(), images(image()), buffers()) == delivered()


def test_no_common_format_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, images(image(BGRA)), images(image(RGBA)))


def test_a_conflict_of_alpha_drops_the_format(client: blocking.Allocator) -> None:
    yes, no = image(is_alpha_present=True), image(is_alpha_present=False)
    assert refused(client, images(yes), images(no))
    other = image(PixelFormat.A2R10G10B10)
    found = image_settings(client, images(yes, other), images(no, other))
    assert found.pixel_format == PixelFormat.A2R10G10B10


def test_no_common_color_space_drops_the_format(client: blocking.Allocator) -> None:
    one = image(NV12, color_spaces=[ColorSpace.REC709])
    two = image(NV12, color_spaces=[ColorSpace.REC601_PAL])
    assert refused(client, images(one), images(two))
    assert image_settings(client, images(one, image()), images(two, image())) == delivered()


def test_a_divisor_over_32_bits_in_combination_drops_the_format(
    client: blocking.Allocator,
) -> None:
    one = image(bytes_per_row_divisor=0x10000, max_bytes_per_row=None)
    two = image(bytes_per_row_divisor=0x10001 * 4)
    # The common divisor of 0x10000 and 4 × 0x10001 is 4, so the multiple is 0x10000 × 0x10001, which needs more than 32
    # bits.
    assert refused(client, images(one), images(two))
    other = image(RGBA)
    assert image_settings(client, images(one, other), images(two, other)).pixel_format == RGBA


def test_a_failed_check_of_a_combined_entry_refuses_everything(
    client: blocking.Allocator,
) -> None:
    # A failed combination would have another effect (`docs/spec/constraints.md`, section 4).
    narrow, wide = image(max_size=SizeU(70, 70)), image(min_size=SizeU(71, 48))
    other = image(RGBA)
    assert refused(client, images(narrow, other), images(wide, other))


def test_the_most_preferred_color_space_is_delivered(client: blocking.Allocator) -> None:
    order = [
        ColorSpace.REC2100,
        ColorSpace.REC2020,
        ColorSpace.REC709,
        ColorSpace.REC601_PAL_FULL_RANGE,
        ColorSpace.REC601_PAL,
        ColorSpace.REC601_NTSC_FULL_RANGE,
        ColorSpace.REC601_NTSC,
        ColorSpace.PASSTHROUGH,
    ]
    for position, best in enumerate(order):
        entry = image(PixelFormat.P010, color_spaces=order[position:][::-1])
        assert image_settings(client, images(entry)).color_spaces == [best]
    rgb = image(color_spaces=[ColorSpace.PASSTHROUGH, ColorSpace.SRGB])
    assert image_settings(client, images(rgb)).color_spaces == [ColorSpace.SRGB]
    grey = image(PixelFormat.L8, color_spaces=[ColorSpace.REC709, ColorSpace.SRGB])
    assert image_settings(client, images(grey)).color_spaces == [ColorSpace.SRGB]


def test_any_color_space_takes_the_other_sides(client: blocking.Allocator) -> None:
    open_color = images(image(color_spaces=ANY_COLOR))
    assert image_settings(client, open_color, images(image())) == delivered()
    assert image_settings(client, images(image()), open_color) == delivered()


def test_a_color_space_open_on_all_sides_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, images(image(color_spaces=ANY_COLOR)))
    # A specific format is kept.
    entries = [image(BGRA, color_spaces=ANY_COLOR), image(NV12)]
    assert image_settings(client, images(*entries)) == nv12()


def test_a_format_open_on_all_sides_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, images(image(ANY_FORMAT)))
    assert refused(client, images(image(ANY_FORMAT, color_spaces=ANY_COLOR)))
    assert refused(client, images(image(BGRA, pixel_format_modifier=ANY_MODIFIER)))


def test_an_open_format_takes_each_of_the_others(client: blocking.Allocator) -> None:
    anything = images(image(ANY_FORMAT, color_spaces=ANY_COLOR, min_size=SizeU(80, 48)))
    specific = images(image(BGRA), image(NV12))
    for tables in ([anything, specific], [specific, anything]):
        found = image_settings(client, *tables)
        assert found == delivered(BGRA, min_size=SizeU(80, 48), min_bytes_per_row=320)
    found = image_settings(client, anything, specific, images(image(NV12)))
    assert found == nv12(min_size=SizeU(80, 48), min_bytes_per_row=80)


def test_filling_drops_color_spaces_the_format_does_not_support(
    client: blocking.Allocator,
) -> None:
    anything = images(image(ANY_FORMAT, color_spaces=[ColorSpace.SRGB, ColorSpace.REC709]))
    assert image_settings(client, anything, images(image(NV12))) == nv12()
    assert image_settings(client, anything, images(image(BGRA))) == delivered()
    only_rgb = images(image(ANY_FORMAT, color_spaces=[ColorSpace.SRGB]))
    assert refused(client, only_rgb, images(image(NV12, color_spaces=ANY_COLOR)))


def test_open_modifier_and_open_format_fill_each_other(client: blocking.Allocator) -> None:
    tiled = image(ANY_FORMAT, pixel_format_modifier=X_TILED)
    bgra = image(BGRA, pixel_format_modifier=ANY_MODIFIER)
    found = image_settings(client, images(tiled), images(bgra))
    assert (found.pixel_format, found.pixel_format_modifier) == (BGRA, X_TILED)
    # An unsupported pair is not created.
    grey = image(PixelFormat.R8, pixel_format_modifier=ANY_MODIFIER)
    assert refused(client, images(tiled), images(grey))


# Section 3: sizes that must be possible


def test_covered_required_maxima_are_dropped_and_the_rest_is_sorted(
    client: blocking.Allocator,
) -> None:
    first = image(required_max_size_list=[SizeU(200, 100), SizeU(100, 100), SizeU(64, 64)])
    second = image(
        required_max_size_list=[SizeU(100, 200), SizeU(200, 100)],
        required_max_size=SizeU(150, 150),
    )
    found = image_settings(client, images(first), images(second))
    assert found.required_max_size_list == [SizeU(100, 200), SizeU(150, 150), SizeU(200, 100)]
    assert found.required_max_size == SizeU(150, 150)


def test_the_deprecated_required_max_size_combines_by_maximum(
    client: blocking.Allocator,
) -> None:
    found = settings(
        client,
        images(image(required_max_size=SizeU(100, 60))),
        images(image(required_max_size=SizeU(80, 90))),
    )
    assert found.image_format_constraints == delivered(
        required_max_size=SizeU(100, 90), required_max_size_list=[SizeU(100, 90)]
    )
    assert found.buffer_settings is not None
    assert found.buffer_settings.size_bytes == 400 * 90


def test_more_than_64_required_maxima_are_empty(client: blocking.Allocator) -> None:
    stairs = [SizeU(100 + i, 200 - i) for i in range(65)]
    assert (
        len(
            image_settings(
                client, images(image(required_max_size_list=stairs[:64]))
            ).required_max_size_list
            or []
        )
        == 64
    )
    assert refused(
        client,
        images(image(required_max_size_list=stairs[:64])),
        images(image(required_max_size_list=stairs[64:])),
    )


# 5.4: the choice


def test_without_costs_the_smallest_format_number_wins(client: blocking.Allocator) -> None:
    assert image_settings(client, images(image(NV12), image(BGRA), image(RGBA))) == delivered(RGBA)


def test_without_costs_the_smallest_modifier_number_wins(client: blocking.Allocator) -> None:
    entries = [
        image(pixel_format_modifier=PixelFormatModifier.ARM_AFBC_32X8),
        image(pixel_format_modifier=PixelFormatModifier.ARM_AFBC_16X16),
        image(pixel_format_modifier=X_TILED),
    ]
    assert image_settings(client, images(*entries)).pixel_format_modifier == X_TILED
    assert image_settings(client, images(*entries, image())).pixel_format_modifier == LINEAR


def test_alpha_is_left_open_in_formats_that_have_none(client: blocking.Allocator) -> None:
    for pixel_format in (NV12, PixelFormat.R8G8B8, PixelFormat.R5G6B5, PixelFormat.L8):
        entry = image(pixel_format, is_alpha_present=True)
        assert image_settings(client, images(entry)).is_alpha_present is None
    for pixel_format in (PixelFormat.R2G2B2X2, PixelFormat.A2B10G10R10, PixelFormat.B8G8R8X8):
        entry = image(pixel_format, is_alpha_present=False)
        assert image_settings(client, images(entry)).is_alpha_present is False


def test_usage_none_may_bring_image_constraints(client: blocking.Allocator) -> None:
    idle = images(image(size_alignment=SizeU(16, 16)), usage=BufferUsage(none=NoneUsage.NONE_USAGE))
    found = image_settings(client, images(image()), idle)
    assert found == delivered(size_alignment=SizeU(16, 16))


def test_display_and_gpu_agree_on_a_tiled_format(client: blocking.Allocator) -> None:
    gpu = images(
        image(
            None,
            pixel_format_and_modifiers=[
                PixelFormatAndModifier(pixel_format=BGRA, pixel_format_modifier=X_TILED),
                PixelFormatAndModifier(BGRA, LINEAR),
                PixelFormatAndModifier(RGBA, X_TILED),
            ],
        ),
        usage=VULKAN,
    )
    screen = images(
        image(BGRA, pixel_format_modifier=X_TILED),
        usage=BufferUsage(display=DisplayUsage.LAYER),
    )
    found = settings(client, gpu, screen)
    assert found.image_format_constraints is not None
    assert found.image_format_constraints.pixel_format == BGRA
    assert found.image_format_constraints.pixel_format_modifier == X_TILED
    # Intel tiles: rows of at least one tile (512 bytes), from MinimumRowBytes.
    assert found.image_format_constraints.min_bytes_per_row == 512


# 2: many formats


def _afbc() -> list[int]:
    """Return all 128 AFBC modifiers: two block sizes, six independent bits."""
    made = []
    for base in (1, 2):
        for mask in range(64):
            bits = [0x10, 0x20, 0x40, 0x800, 0x1000, 0x2000]
            made.append(
                0x0800000000000000
                | base
                | sum(bit for index, bit in enumerate(bits) if mask >> index & 1)
            )
    return made


def _open_modifiers(formats: list[int]) -> ImageFormatConstraints:
    pairs = [PixelFormatAndModifier(number, ANY_MODIFIER) for number in formats]
    return image(None, pixel_format_and_modifiers=pairs)


def _open_formats(modifiers: list[int]) -> list[ImageFormatConstraints]:
    pairs = [PixelFormatAndModifier(ANY_FORMAT, number) for number in modifiers]
    return [
        image(None, pixel_format_and_modifiers=pairs[start : start + 64])
        for start in range(0, len(pairs), 64)
    ]


def test_512_entries_are_the_most(client: blocking.Allocator) -> None:
    formats = _open_modifiers([1, 101, 119, 120])
    exactly = images(*_open_formats(_afbc()))
    for tables in ([images(formats), exactly], [exactly, images(formats)]):
        found = image_settings(client, *tables)
        assert (found.pixel_format, found.pixel_format_modifier) == (1, 0x0800000000000001)
    beyond = images(*_open_formats([*_afbc(), X_TILED]))
    assert refused(client, images(formats), beyond)
    assert refused(client, beyond, images(formats))


def test_constraints_over_64_kib_are_refused_before_they_are_sent(
    client: blocking.Allocator,
) -> None:
    pairs = [PixelFormatAndModifier(101, 0x0800000000000001)] * 64
    sizes = [SizeU(1000, 1000)] * 64
    entry = image(pixel_format_and_modifiers=pairs, required_max_size_list=sizes)
    table = images(*[entry] * 64)
    with client.allocate_non_shared_collection() as collection:
        with pytest.raises(ValueError, match=r"."):
            collection.set_constraints(table)
        collection.set_constraints(images(image()))
        collection.wait_for_all_buffers_allocated().close()


# Section 4: checks on the aggregate


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"required_min_size": SizeU(70, 48)}, {"min_size": SizeU(71, 48)}),
        ({"required_max_size": SizeU(200, 1)}, {"max_size": SizeU(199, 400)}),
        ({"required_max_size_list": [SizeU(1, 200)]}, {"max_size": SizeU(400, 199)}),
        ({"min_bytes_per_row": 1024}, {"max_bytes_per_row": 1023}),
        ({"max_width_times_height": 5000}, {"min_size": SizeU(100, 51)}),
        ({"min_size": SizeU(1, 0x10000)}, {"min_size": SizeU(0x10000, 1)}),
        ({"bytes_per_row_divisor": 512}, {"max_bytes_per_row": 511}),
        ({"size_alignment": SizeU(256, 1)}, {"max_size": SizeU(255, 255)}),
    ],
    ids=repr,
)
def test_what_each_may_want_and_both_cannot_have_is_empty(
    client: blocking.Allocator, one: dict[str, Any], two: dict[str, Any]
) -> None:
    first, second = images(image(**one)), images(image(**two))
    assert not refused(client, first)
    assert not refused(client, second)
    assert refused(client, first, second)
    assert refused(client, second, first)


def test_adjustments_are_made_again_when_filling_made_the_format(
    client: blocking.Allocator,
) -> None:
    any_format = image(
        ANY_FORMAT,
        pixel_format_modifier=LINEAR,
        bytes_per_row_divisor=6,
        min_size=SizeU(65, 31),
    )
    any_modifier = image(NV12, pixel_format_modifier=ANY_MODIFIER, min_size=None)
    any_format.color_spaces = ANY_COLOR
    found = image_settings(client, images(any_format), images(any_modifier))
    # NV12: 65 × 31 is rounded up to even numbers, rows are multiples of 6 and 2.
    assert found == nv12(min_size=SizeU(66, 32), bytes_per_row_divisor=6, min_bytes_per_row=66)


def test_three_participants_in_any_order_agree_on_the_same(client: blocking.Allocator) -> None:
    tables = [
        images(image(ANY_FORMAT, color_spaces=ANY_COLOR, bytes_per_row_divisor=48)),
        images(image(BGRA, size_alignment=SizeU(2, 4)), image(NV12), image(RGBA)),
        images(image(NV12, max_size=SizeU(999, 999)), image(BGRA, min_size=SizeU(70, 10))),
    ]
    expected = delivered(
        size_alignment=SizeU(2, 4),
        min_size=SizeU(70, 48),
        bytes_per_row_divisor=48,
        min_bytes_per_row=288,
    )
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        assert image_settings(client, *[tables[index] for index in order]) == expected
