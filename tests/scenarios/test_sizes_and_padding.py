"""Sizes of images in every layout, and padding (`docs/spec/image-formats.md`, sections 2.3, 4 and 5).

The numbers are those of the specification's worked examples. The constraints that lead to them were computed by hand.
"""

from __future__ import annotations

from typing import Any

import pytest

from sysmem import ColorSpace, PixelFormat, PixelFormatModifier, SizeU, blocking

from .scenario import (
    BGRA,
    NV12,
    RGBA,
    UNBOUNDED,
    buffer_settings,
    delivered,
    image,
    image_settings,
    images,
    memory,
    refused,
    settings,
)

M = PixelFormatModifier


def exactly(
    pixel_format: int, modifier: int, width: int, height: int, **fields: Any
) -> dict[str, Any]:
    """Return the fields of an entry of exactly one size, in any colour space."""
    return {
        "pixel_format": pixel_format,
        "pixel_format_modifier": modifier,
        "color_spaces": [ColorSpace.PASSTHROUGH],
        "min_size": SizeU(width, height),
        "max_size": SizeU(width, height),
        **fields,
    }


@pytest.mark.parametrize(
    ("pixel_format", "modifier", "size", "divisor", "bytes_per_row", "expected"),
    [
        # `docs/spec/image-formats.md`, section 5, by number of the example
        pytest.param(BGRA, M.LINEAR, (18, 17), 32, 96, 96 * 17, id="4"),
        pytest.param(PixelFormat.I420, M.LINEAR, (18, 20), 32, 32, 960, id="5, 6"),
        pytest.param(BGRA, M.LINEAR, (64, 128), 384, 384, 49152, id="7 BGRA"),
        pytest.param(NV12, M.LINEAR, (64, 128), 384, 384, 73728, id="7 NV12"),
        pytest.param(PixelFormat.P010, M.LINEAR, (64, 128), 384, 384, 73728, id="7 P010"),
        pytest.param(PixelFormat.R8G8, M.LINEAR, (18, 17), 1, 36, 612, id="9 R8G8"),
        pytest.param(PixelFormat.R8, M.LINEAR, (18, 17), 1, 18, 306, id="9 R8"),
        pytest.param(PixelFormat.A2R10G10B10, M.LINEAR, (18, 17), 1, 72, 1224, id="9 A2R10G10B10"),
        pytest.param(BGRA, M.GOOGLE_GOLDFISH_OPTIMAL, (64, 128), 384, 384, 49152, id="10"),
        pytest.param(NV12, M.LINEAR, (1920, 1080), 1, 1920, 3110400, id="11 NV12"),
        pytest.param(PixelFormat.P010, M.LINEAR, (1920, 1080), 1, 3840, 6220800, id="11 P010"),
        pytest.param(PixelFormat.YUY2, M.LINEAR, (1920, 1080), 1, 3840, 4147200, id="11 YUY2"),
        pytest.param(BGRA, M.LINEAR, (1920, 1080), 1, 7680, 8294400, id="11 BGRA"),
        pytest.param(BGRA, M.ARM_LINEAR_TE, (18, 17), 32, 96, 1856, id="12"),
        pytest.param(BGRA, M.ARM_LINEAR_TE, (1920, 1080), 1, 7680, 8359744, id="13"),
        pytest.param(BGRA, 0x0800000000002071, (18, 17), 1, None, 69632, id="14"),
        pytest.param(BGRA, M.ARM_AFBC_16X16, (18, 17), 1, 128, 5120, id="15 16x16"),
        pytest.param(BGRA, M.ARM_AFBC_32X8, (18, 17), 1, 128, 4096, id="15 32x8"),
        pytest.param(BGRA, 0x0800000000001071, (18, 17), 1, 128, 5312, id="16"),
        pytest.param(BGRA, M.ARM_AFBC_16X16, (1920, 1080), 1, 7680, 8486912, id="17 0001"),
        pytest.param(BGRA, M.ARM_AFBC_32X8, (1920, 1080), 1, 7680, 8424448, id="17 0002"),
        pytest.param(BGRA, 0x0800000000001001, (1920, 1080), 1, 7680, 8552256, id="17 1001"),
        pytest.param(BGRA, 0x0800000000002071, (1920, 1080), 1, 960, 8986624, id="17 2071"),
        pytest.param(BGRA, 0x0800000000003071, (1920, 1080), 1, 960, 9051968, id="17 3071"),
        pytest.param(NV12, M.INTEL_I915_Y_TILED, (3440, 1440), 1, 3456, 7520256, id="19"),
        pytest.param(NV12, M.INTEL_I915_Y_TILED, (1920, 1080), 1, 1920, 3133440, id="20"),
        pytest.param(BGRA, M.INTEL_I915_Y_TILED_CCS, (64, 63), 32, 256, 20480, id="21"),
        pytest.param(BGRA, M.INTEL_I915_YF_TILED_CCS, (64, 63), 32, 256, 20480, id="21 YF"),
        pytest.param(BGRA, M.INTEL_I915_Y_TILED, (135, 140), 512, 1024, 163840, id="22"),
        pytest.param(BGRA, M.INTEL_I915_X_TILED, (1920, 1080), 1, 7680, 8294400, id="23"),
        pytest.param(BGRA, M.INTEL_I915_Y_TILED, (1920, 1080), 1, 7680, 8355840, id="24"),
        pytest.param(BGRA, M.INTEL_I915_Y_TILED_CCS, (1920, 1080), 1, 7680, 8380416, id="24 CCS"),
        pytest.param(NV12, M.INTEL_I915_Y_TILED_CCS, (1920, 1080), 1, 1920, 3141632, id="25"),
    ],
)
def test_the_size_of_an_image(
    client: blocking.Allocator,
    pixel_format: int,
    modifier: int,
    size: tuple[int, int],
    divisor: int,
    bytes_per_row: int | None,
    expected: int,
) -> None:
    entry = image(**exactly(pixel_format, modifier, *size, bytes_per_row_divisor=divisor))
    found = settings(client, images(entry))
    assert found.buffer_settings is not None
    assert found.buffer_settings.size_bytes == expected
    assert found.buffer_settings.raw_vmo_size == -(-expected // 4096) * 4096
    assert found.image_format_constraints is not None
    if bytes_per_row is not None and modifier != M.GOOGLE_GOLDFISH_OPTIMAL:
        assert found.image_format_constraints.min_bytes_per_row == bytes_per_row


def test_the_largest_of_several_required_sizes_is_the_size(client: blocking.Allocator) -> None:
    found = buffer_settings(
        client,
        images(image(required_max_size_list=[SizeU(1000, 100), SizeU(100, 1001)])),
    )
    # 1000 × 4 × 100 = 400000; 100 × 4 × 1001 = 400400
    assert found.size_bytes == 400400


def test_a_required_size_is_aligned_and_at_least_the_minimum(client: blocking.Allocator) -> None:
    entry = image(
        min_size=SizeU(64, 48), size_alignment=SizeU(16, 8), required_max_size_list=[SizeU(70, 20)]
    )
    # a width of 70 is rounded up to 80, and the minimum height is 48
    assert buffer_settings(client, images(entry)).size_bytes == 80 * 4 * 48


def test_a_required_size_that_aligned_exceeds_the_maximum_is_empty(
    client: blocking.Allocator,
) -> None:
    wide = image(required_max_size_list=[SizeU(100, 48)])
    # On its own, 100 would be possible. With the other participant's alignment the width is 112, and the maximum of 100
    # is rounded down to 96.
    assert refused(
        client, images(wide), images(image(size_alignment=SizeU(16, 1), max_size=SizeU(100, 100)))
    )
    assert not refused(client, images(wide), images(image(max_size=SizeU(100, 100))))


def test_a_row_over_the_maximum_is_empty(client: blocking.Allocator) -> None:
    entry = image(required_max_size_list=[SizeU(100, 48)], max_bytes_per_row=399)
    assert refused(client, images(entry))
    entry = image(required_max_size_list=[SizeU(100, 48)], max_bytes_per_row=400)
    assert buffer_settings(client, images(entry)).size_bytes == 400 * 48


def test_an_area_over_the_maximum_is_empty(client: blocking.Allocator) -> None:
    fields: dict[str, Any] = {"required_max_size_list": [SizeU(100, 100)]}
    assert refused(client, images(image(max_width_times_height=9999, **fields)))
    assert not refused(client, images(image(max_width_times_height=10000, **fields)))
    # The combined maximum of two required sizes is not required itself.
    stairs = image(
        max_width_times_height=5000, required_max_size_list=[SizeU(100, 50), SizeU(64, 70)]
    )
    assert not refused(client, images(stairs))


def test_an_image_over_max_size_bytes_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, images(image()), memory(min_size_bytes=1, max_size_bytes=12287))
    assert not refused(client, images(image()), memory(min_size_bytes=1, max_size_bytes=12288))


def test_an_image_over_256_mib_is_empty(client: blocking.Allocator) -> None:
    assert not refused(client, images(image(min_size=SizeU(8192, 8192))))
    assert refused(client, images(image(min_size=SizeU(8192, 8193))))


def test_sizes_beyond_every_width_are_empty(client: blocking.Allocator) -> None:
    assert refused(client, images(image(required_max_size_list=[SizeU(UNBOUNDED, UNBOUNDED)])))
    assert refused(client, images(image(min_size=SizeU(UNBOUNDED, 1))))
    entry = image(
        pixel_format_modifier=M.INTEL_I915_X_TILED, required_max_size_list=[SizeU(1024, 2**20)]
    )
    assert refused(client, images(entry))


# `docs/spec/image-formats.md`, section 4: padding, examples 42-50

BLOCK: dict[str, Any] = {
    "pixel_format": RGBA,
    "bytes_per_row_divisor": 64,
    "pad_for_block_size": SizeU(4, 4),
}


ANY_WIDTH = SizeU(0x7FFFFFFF, UNBOUNDED)
SMALL = {
    "pixel_format": PixelFormat.R8,
    "bytes_per_row_divisor": 1,
    "pad_for_block_size": SizeU(1, 16),
}
BEYOND = {"pad_beyond_image_size_bytes": 16}


@pytest.mark.parametrize(
    ("min_size", "max_size", "fields", "least", "size_bytes", "used"),
    [
        pytest.param((450, 450), SizeU(450, 450), {}, 1, 835200, 838912, id="42"),
        pytest.param((450, 450), ANY_WIDTH, {}, 835200, 835200, 838912, id="43"),
        pytest.param((1, 452), ANY_WIDTH, {}, 838912, 838912, 844288, id="44"),
        pytest.param(
            (1, 1), ANY_WIDTH, {"size_alignment": SizeU(1, 2)}, 835200, 835200, 1670400, id="45"
        ),
        pytest.param((1, 1), SizeU(1800, UNBOUNDED), {}, 835200, 835200, 856896, id="46"),
        pytest.param(
            (1, 1), ANY_WIDTH, {"size_alignment": SizeU(4, 4)}, 838912, 838912, 838912, id="47"
        ),
        pytest.param((1, 1), SizeU(1000, 1000), SMALL, 100000, 100000, 115000, id="48"),
        pytest.param(
            (450, 450),
            SizeU(450, 450),
            {"pad_for_block_size": SizeU(1, 1), **BEYOND},
            1,
            835200,
            835216,
            id="49",
        ),
        pytest.param((450, 450), SizeU(450, 450), BEYOND, 1, 835200, 838912, id="50"),
    ],
)
def test_padding_raises_only_the_vmo(
    client: blocking.Allocator,
    min_size: tuple[int, int],
    max_size: SizeU,
    fields: dict[str, Any],
    least: int,
    size_bytes: int,
    used: int,
) -> None:
    table = images(
        image(**(BLOCK | {"min_size": SizeU(*min_size), "max_size": max_size} | fields)),
        buffer_memory_constraints=memory(min_size_bytes=least).buffer_memory_constraints,
    )
    found = buffer_settings(client, table)
    assert found.size_bytes == size_bytes
    assert found.raw_vmo_size == -(-used // 4096) * 4096


def test_padding_must_fit_the_maximum_of_participants(client: blocking.Allocator) -> None:
    entry = image(**BLOCK, min_size=SizeU(450, 450), max_size=SizeU(450, 450))
    assert refused(client, images(entry), memory(min_size_bytes=1, max_size_bytes=838911))
    assert not refused(client, images(entry), memory(min_size_bytes=1, max_size_bytes=838912))
    beyond = image(pad_beyond_image_size_bytes=1)
    assert refused(client, images(beyond), memory(min_size_bytes=1, max_size_bytes=12288))
    assert not refused(client, images(beyond), memory(min_size_bytes=1, max_size_bytes=12289))


@pytest.mark.parametrize(
    "fields",
    [
        {"pixel_format": NV12, "color_spaces": [ColorSpace.REC709]},
        {"pixel_format": PixelFormat.P010, "color_spaces": [ColorSpace.REC709]},
        {"pixel_format": PixelFormat.YUY2, "color_spaces": [ColorSpace.REC709]},
        {"pixel_format_modifier": M.INTEL_I915_X_TILED},
        {"pixel_format_modifier": M.ARM_LINEAR_TE},
        {"pixel_format_modifier": M.DO_NOT_CARE},
        {"pixel_format": PixelFormat.DO_NOT_CARE, "pixel_format_modifier": M.LINEAR},
        {"max_size": SizeU(0x80000000, 1000)},
        {"max_size": None},
        {"pad_for_block_size": SizeU(4, 0)},
        {"pad_for_block_size": SizeU(4, 6)},
    ],
    ids=repr,
)
def test_block_padding_needs_a_bounded_linear_single_plane(
    client: blocking.Allocator, fields: dict[str, Any]
) -> None:
    entry = image(**(BLOCK | {"max_size": SizeU(1000, 1000)} | fields))
    assert refused(client, images(entry), images(image(RGBA), image(NV12)))


def test_block_height_alone_needs_a_single_plane_too(client: blocking.Allocator) -> None:
    entry = image(NV12, pad_for_block_size=SizeU(1, 2), max_size=SizeU(1000, 1000))
    assert refused(client, images(entry))


def test_block_width_makes_rows_whole_blocks(client: blocking.Allocator) -> None:
    entry = image(RGBA, pad_for_block_size=SizeU(8, 1), min_size=SizeU(65, 48))
    # 8 pixels of 4 bytes: rows of 65 × 4 = 260 become multiples of 32.
    assert image_settings(client, images(entry)) == delivered(
        RGBA,
        min_size=SizeU(65, 48),
        pad_for_block_size=SizeU(8, 1),
        bytes_per_row_divisor=32,
        min_bytes_per_row=288,
    )


def test_blocks_combine_by_maximum_per_component(client: blocking.Allocator) -> None:
    bounded: dict[str, Any] = {"max_size": SizeU(1000, 1000)}
    one = image(RGBA, pad_for_block_size=SizeU(8, 1), **bounded)
    two = image(RGBA, pad_for_block_size=SizeU(2, 4), **bounded)
    found = image_settings(client, images(one), images(two))
    assert found == delivered(
        RGBA,
        max_size=SizeU(1000, 1000),
        pad_for_block_size=SizeU(8, 4),
        bytes_per_row_divisor=32,
    )


def test_a_block_divisor_over_32_bits_is_empty_for_one_and_drops_for_two(
    client: blocking.Allocator,
) -> None:
    entry = image(RGBA, pad_for_block_size=SizeU(2**30, 1))
    assert refused(client, images(entry))
    wide, odd = (
        image(RGBA, pad_for_block_size=SizeU(2**20, 1)),
        image(RGBA, bytes_per_row_divisor=4 * 1025),
    )
    other = image(BGRA)
    assert refused(client, images(wide), images(odd))
    assert image_settings(client, images(wide, other), images(odd, other)).pixel_format == BGRA


def test_padding_beyond_counts_against_the_limits(client: blocking.Allocator) -> None:
    assert refused(client, images(image(pad_beyond_image_size_bytes=2**28 - 12287)))
    assert not refused(client, images(image(pad_beyond_image_size_bytes=2**28 - 12288)))
    assert refused(client, images(image(pad_beyond_image_size_bytes=2**64 - 1)))
    per_buffer = 2**30 // 64 - 12288
    many: dict[str, Any] = {"min_buffer_count_for_camping": 64}
    assert not refused(client, images(image(pad_beyond_image_size_bytes=per_buffer), **many))
    assert refused(client, images(image(pad_beyond_image_size_bytes=per_buffer + 1), **many))
