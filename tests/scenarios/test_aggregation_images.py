"""Image entries of one participant: defaults, checks and delivery (`docs/spec/constraints.md`, sections 0 and 1)."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem import (
    BufferUsage,
    ColorSpace,
    NoneUsage,
    PixelFormat,
    PixelFormatAndModifier,
    PixelFormatModifier,
    SizeU,
    blocking,
)

from .scenario import (
    ANY_FORMAT,
    ANY_MODIFIER,
    BGRA,
    LINEAR,
    NV12,
    RGBA,
    UNBOUNDED,
    X_TILED,
    buffer_settings,
    buffers,
    delivered,
    image,
    image_settings,
    images,
    nv12,
    outcome,
    refused,
    settings,
)

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
