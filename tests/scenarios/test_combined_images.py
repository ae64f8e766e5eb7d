"""Image entries of several participants: combination, choice, checks (`docs/spec/constraints.md`, sections 2 to 5)."""

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
    blocking,
)

from .scenario import (
    ANY_COLOR,
    ANY_FORMAT,
    ANY_MODIFIER,
    BGRA,
    LINEAR,
    NV12,
    RGBA,
    VULKAN,
    X_TILED,
    buffers,
    delivered,
    image,
    image_settings,
    images,
    nv12,
    refused,
    settings,
)


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
