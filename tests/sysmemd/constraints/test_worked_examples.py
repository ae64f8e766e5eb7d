"""Every row of `docs/spec/image-formats.md`, section 5, under its number."""

from __future__ import annotations

import math

import pytest

from sysmem_protocol.formats import (
    PIXELS,
    RGB32,
    is_compatible_with_protected_memory,
    is_supported,
    supports_color_space,
    traits,
)
from sysmem_protocol.image_format import ImageFormat, constraints_to_format
from sysmem_protocol.images2 import ColorSpace
from sysmem_protocol.sizes import (
    image_size,
    minimum_row_bytes,
    te_row_bytes,
)
from sysmem_protocol.sysmem2 import ImageFormatConstraints, SizeU
from sysmemd.constraints import FormatCost, Platform, UsageBits
from sysmemd.constraints.cost import format_cost, index_costs
from sysmemd.constraints.padding import padded_size
from sysmemd.constraints.terms import read_terms

from .support import C, F, M, agree, image, image_of, memory_of, wants

BGRA, NV12, P010 = F.B8G8R8A8, F.NV12, F.P010
LINEAR, TE, GOLDFISH = M.LINEAR, M.ARM_LINEAR_TE, M.GOOGLE_GOLDFISH_OPTIMAL
X, Y, YF = M.INTEL_I915_X_TILED, M.INTEL_I915_Y_TILED, M.INTEL_I915_YF_TILED
Y_CCS, YF_CCS = M.INTEL_I915_Y_TILED_CCS, M.INTEL_I915_YF_TILED_CCS
U32 = 0xFFFFFFFF


def arm(bits: int) -> int:
    return 0x0800000000000000 | bits


def k1(pixel_format: int, modifier: int = LINEAR) -> ImageFormatConstraints:
    return ImageFormatConstraints(
        pixel_format=pixel_format,
        pixel_format_modifier=modifier,
        min_size=SizeU(12, 12),
        max_size=SizeU(100, 100),
        bytes_per_row_divisor=32,
        max_bytes_per_row=100000,
    )


def free(pixel_format: int, modifier: int = LINEAR, **fields: int) -> ImageFormatConstraints:
    return ImageFormatConstraints(
        pixel_format=pixel_format,
        pixel_format_modifier=modifier,
        bytes_per_row_divisor=fields.get("divisor", 1),
    )


def made(constraints: ImageFormatConstraints, width: int, height: int) -> ImageFormat:
    result = constraints_to_format(constraints, width, height)
    assert result is not None
    return result


def test_01_minimum_row_of_bgra() -> None:
    assert minimum_row_bytes(k1(BGRA), 17) == 96


@pytest.mark.parametrize("width", [11, 101])
def test_02_minimum_row_outside_the_limits(width: int) -> None:
    assert minimum_row_bytes(k1(BGRA), width) is None


def test_03_minimum_row_of_nv12_with_alignment() -> None:
    constraints = ImageFormatConstraints(
        pixel_format=NV12,
        min_size=SizeU(12, 12),
        max_size=SizeU(100, 100),
        size_alignment=SizeU(8, 1),
    )
    assert minimum_row_bytes(constraints, 17) == 24


def test_04_bgra_to_format() -> None:
    bgra = made(k1(BGRA), 18, 17)
    assert bgra.bytes_per_row == 96
    assert bgra.plane_byte_offset(0) == 0
    assert bgra.plane_byte_offset(1) is None


I420_18X20 = [0, 640, 800, None]


def test_05_i420_to_format() -> None:
    i420 = made(k1(F.I420), 18, 20)
    assert i420.bytes_per_row == 32
    assert [i420.plane_byte_offset(plane) for plane in range(4)] == I420_18X20
    assert [i420.plane_row_bytes(plane) for plane in range(4)] == [32, 16, 16, None]


def test_06_size_of_i420() -> None:
    assert made(k1(F.I420), 18, 20).byte_size() == 960


@pytest.mark.parametrize(("pixel_format", "size"), [(BGRA, 49152), (NV12, 73728), (P010, 73728)])
def test_07_sizes_64_by_128(pixel_format: int, size: int) -> None:
    assert image_size(pixel_format, LINEAR, 64, 128, 384) == size


@pytest.mark.parametrize(
    ("pixel_format", "divisors"), [(BGRA, (1, 1, 4)), (NV12, (2, 2, 2)), (P010, (2, 2, 4))]
)
def test_08_divisors(pixel_format: int, divisors: tuple[int, int, int]) -> None:
    pixel = PIXELS[pixel_format]
    assert (pixel.divisor, pixel.divisor, pixel.sample_alignment) == divisors


@pytest.mark.parametrize(
    ("pixel_format", "row", "size"),
    [
        (F.R8G8, 36, 612),
        (F.R8, 18, 306),
        (F.A2R10G10B10, 72, 1224),
        (F.A2B10G10R10, 72, 1224),
    ],
)
def test_09_formats_without_divisor(pixel_format: int, row: int, size: int) -> None:
    assert minimum_row_bytes(free(pixel_format), 18) == row
    assert image_size(pixel_format, LINEAR, 18, 17, row) == size


def test_10_goldfish_is_sized_like_linear() -> None:
    assert image_size(BGRA, GOLDFISH, 64, 128, 384) == 49152


@pytest.mark.parametrize(
    ("pixel_format", "row", "size"),
    [(NV12, 1920, 3110400), (P010, 3840, 6220800), (F.YUY2, 3840, 4147200), (BGRA, 7680, 8294400)],
)
def test_11_full_hd(pixel_format: int, row: int, size: int) -> None:
    assert image_size(pixel_format, LINEAR, 1920, 1080, row) == size


def test_12_transaction_elimination() -> None:
    bgra = made(k1(BGRA, TE), 18, 17)
    assert bgra.bytes_per_row == 96
    assert bgra.plane_row_bytes(3) == 64
    assert bgra.plane_byte_offset(3) == 1664
    assert bgra.byte_size() == 1856


def test_13_transaction_elimination_full_hd() -> None:
    assert te_row_bytes(1920) == 960
    assert image_size(BGRA, TE, 1920, 1080, 7680) == 8359744


def test_14_afbc_tiled_header() -> None:
    assert image_size(BGRA, arm(0x2071), 18, 17, 0) == 69632


def test_15_afbc() -> None:
    assert image_size(BGRA, arm(0x1), 18, 17, 0) == 5120
    assert image_size(BGRA, arm(0x2), 18, 17, 0) == 4096
    assert minimum_row_bytes(free(BGRA, arm(0x1)), 18) == 128
    assert minimum_row_bytes(free(BGRA, arm(0x2)), 18) == 128


def test_16_afbc_with_transaction_elimination() -> None:
    afbc = ImageFormat(BGRA, SizeU(18, 17), 0, arm(0x1071))
    assert afbc.byte_size() == 5312
    assert afbc.plane_byte_offset(3) == 5120
    assert not is_compatible_with_protected_memory(arm(0x1071))


@pytest.mark.parametrize(
    ("bits", "size"),
    [
        (0x0001, 8486912),
        (0x0002, 8424448),
        (0x1001, 8552256),
        (0x2071, 8986624),
        (0x3071, 9051968),
    ],
)
def test_17_afbc_full_hd(bits: int, size: int) -> None:
    assert image_size(BGRA, arm(bits), 1920, 1080, 0) == size


@pytest.mark.parametrize(("bits", "row"), [(0x0001, 7680), (0x2071, 960)])
def test_18_afbc_minimum_row(bits: int, row: int) -> None:
    assert minimum_row_bytes(free(BGRA, arm(bits)), 1920) == row


def test_19_intel_nv12_3440_by_1440() -> None:
    nv12 = made(free(NV12, Y), 3440, 1440)
    assert nv12.bytes_per_row == 3456
    assert nv12.byte_size() == 7520256 == (27 * 45 + 27 * 23) * 4096
    assert nv12.plane_byte_offset(1) == 4976640
    assert [nv12.plane_row_bytes(plane) for plane in (0, 1)] == [3456, 3456]


def test_20_intel_nv12_full_hd() -> None:
    nv12 = made(free(NV12, Y), 1920, 1080)
    assert nv12.byte_size() == 3133440 == (15 * 34 + 15 * 17) * 4096
    assert nv12.plane_byte_offset(1) == 2088960
    assert [nv12.plane_row_bytes(plane) for plane in (0, 1)] == [1920, 1920]


@pytest.mark.parametrize("modifier", [Y_CCS, YF_CCS])
def test_21_intel_color_control(modifier: int) -> None:
    bgra = made(k1(BGRA, modifier), 64, 63)
    assert bgra.byte_size() == 20480
    assert bgra.plane_byte_offset(3) == 16384
    assert bgra.plane_row_bytes(0) == 256
    assert bgra.plane_row_bytes(3) == 128


def test_22_intel_with_divisor() -> None:
    bgra = made(free(BGRA, Y, divisor=512), 135, 140)
    assert bgra.bytes_per_row == 1024
    assert bgra.byte_size() == 163840
    assert image_size(BGRA, Y, 135, 140, 1536) == 245760


def test_23_intel_x_full_hd() -> None:
    bgra = made(free(BGRA, X), 1920, 1080)
    assert bgra.byte_size() == 8294400 == 15 * 135 * 4096


def test_24_intel_y_full_hd() -> None:
    assert made(free(BGRA, Y), 1920, 1080).byte_size() == 8355840
    ccs = made(free(BGRA, Y_CCS), 1920, 1080)
    assert ccs.byte_size() == 8380416
    assert ccs.plane_row_bytes(3) == 256


def test_25_one_color_control_surface_from_the_last_plane() -> None:
    assert image_size(NV12, Y_CCS, 1920, 1080, 1920) == 3141632


@pytest.mark.parametrize(
    ("pixel_format", "modifier", "supported"),
    [
        (BGRA, 0x0100000001000001, False),
        (NV12, arm(0x1), False),
        (BGRA, arm(0x811), True),
        (BGRA, arm(0), False),
        (F.MJPEG, LINEAR, False),
    ],
)
def test_26_supported(pixel_format: int, modifier: int, supported: bool) -> None:
    assert is_supported(pixel_format, modifier) is supported


@pytest.mark.parametrize(("divisor", "row"), [(4, 16), (12, 24)])
def test_27_three_bytes_per_pixel(divisor: int, row: int) -> None:
    assert minimum_row_bytes(free(F.B8G8R8, divisor=divisor), 5) == row


@pytest.mark.parametrize(("modifier", "row"), [(LINEAR, 416), (X, None)])
def test_28_limits_before_or_after_rounding(modifier: int, row: int | None) -> None:
    constraints = ImageFormatConstraints(
        pixel_format=BGRA,
        pixel_format_modifier=modifier,
        max_size=SizeU(100, 100),
        size_alignment=SizeU(8, 1),
    )
    assert minimum_row_bytes(constraints, 99) == row


def test_29_32_bits() -> None:
    assert minimum_row_bytes(free(BGRA), 0x40000000) is None
    assert minimum_row_bytes(free(BGRA), 0x3FFFFFFF) == 4294967292
    assert minimum_row_bytes(free(BGRA, divisor=0), 16) is None


def test_30_64_bits() -> None:
    assert image_size(NV12, LINEAR, 1, U32, U32) is None
    assert image_size(BGRA, LINEAR, 1, U32, U32) == 18446744065119617025


def test_31_a_plane_of_4_gib() -> None:
    assert image_size(BGRA, X, 1024, 1 << 20, 4096) is None
    assert image_size(BGRA, X, 1024, (1 << 20) - 8, 4096) == 4294934528


@pytest.mark.parametrize(
    ("pixel_format", "color_space", "supported"),
    [
        (F.R5G6B5, C.INVALID, False),
        (BGRA, C.PASSTHROUGH, True),
        (NV12, C.PASSTHROUGH, True),
        (F.L8, C.SRGB, True),
        (F.L8, C.REC709, True),
        (F.R8, C.SRGB, True),
        (F.R8, C.REC709, True),
    ],
)
def test_32_color_spaces(pixel_format: int, color_space: int, supported: bool) -> None:
    assert supports_color_space(pixel_format, color_space) is supported


@pytest.mark.parametrize(
    ("pixel_format", "color_space", "supported"),
    [
        (BGRA, C.REC709, False),
        (NV12, C.REC2020, False),
        (P010, C.REC2100, True),
        (P010, C.SRGB, False),
        (F.A2B10G10R10, C.SRGB, True),
        (F.R8, C.REC2020, False),
        (NV12, C.DO_NOT_CARE, False),
    ],
)
def test_33_more_color_spaces(pixel_format: int, color_space: int, supported: bool) -> None:
    assert supports_color_space(pixel_format, color_space) is supported


def test_34_protected_memory() -> None:
    assert is_compatible_with_protected_memory(LINEAR)
    assert not is_compatible_with_protected_memory(TE)


INTEL = [
    FormatCost(pixel_format, modifier, cost=cost)
    for pixel_format in sorted(RGB32)
    for modifier, cost in ((YF_CCS, 500), (Y_CCS, 600), (YF, 1000), (Y, 2000), (X, 3000))
]


def _arm_cost(bits: int) -> float:
    dearer = ((0x10, 100), (0x2000, 500), (0x40, 1000), (0x1000, 2000))
    cost = sum(extra for bit, extra in dearer if not bits & bit)
    return cost + (10 if bits & 0x20 else 0) + (0 if bits & 0xF == 1 else 4000)


ARM_BITS = (0x3071, 0x1071, 0x1001, 0x2071, 0x0071, 0x2011, 0x0001, 0x1002, 0x0002)
ARM = [
    FormatCost(pixel_format, modifier, cost=cost)
    for pixel_format in sorted(RGB32)
    for modifier, cost in (*((arm(b), _arm_cost(b)) for b in ARM_BITS), (int(TE), 30000.0))
]
VIDEO = [FormatCost(NV12, LINEAR, UsageBits(video=1), 100)]
USED = UsageBits(cpu=1, vulkan=4, display=1, video=1)


def costs(table: list[FormatCost], modifiers: list[int]) -> list[float]:
    return [format_cost(index_costs(table), BGRA, modifier, USED) for modifier in modifiers]


def test_35_intel_costs() -> None:
    assert costs(INTEL, [X, Y, YF, Y_CCS, YF_CCS]) == [3000, 2000, 1000, 600, 500]
    ranked = costs(INTEL, [LINEAR, X, Y, YF, Y_CCS, YF_CCS])
    assert ranked == sorted(ranked, reverse=True)


def test_36_intel_arm_and_video_costs() -> None:
    order = [LINEAR, *map(arm, (0x0001, 0x0071, 0x2071, 0x1001, 0x1071, 0x3071))]
    assert costs(ARM, order[1:]) == [3600, 2510, 2010, 1600, 510, 10]
    ranked = costs([*INTEL, *ARM, *VIDEO], [int(modifier) for modifier in order])
    assert ranked == sorted(ranked, reverse=True)


def test_37_linear_and_afbc() -> None:
    linear, afbc = costs(ARM, [LINEAR, arm(0x0002)])
    assert linear > afbc
    linear, afbc = costs(INTEL, [LINEAR, arm(0x0002)])
    assert linear == afbc
    entries = [
        image(BGRA, pixel_format_modifier=modifier, min_size=SizeU(64, 64))
        for modifier in (arm(0x0002), LINEAR)
    ]
    settled = agree(wants(*entries), platform=Platform(format_costs=tuple(INTEL)))
    assert image_of(settled).pixel_format_modifier == LINEAR


def test_38_transaction_elimination_is_cheaper() -> None:
    assert costs(ARM, [arm(0x0002), arm(0x1002)]) == [7600, 5600]


def test_39_without_a_cost_table_the_smallest_number_wins() -> None:
    entries = [image(f, min_size=SizeU(64, 64)) for f in (NV12, BGRA, F.R8G8B8A8)]
    assert image_of(agree(wants(*entries))).pixel_format == F.R8G8B8A8


def test_40_usage_must_be_there() -> None:
    table = index_costs([FormatCost(NV12, cost=50), *VIDEO])
    assert format_cost(table, NV12, LINEAR, UsageBits(video=1)) == 100
    assert format_cost(table, NV12, LINEAR, UsageBits(cpu=1)) == 50


def test_41_the_later_of_two_equally_close_entries() -> None:
    table = [
        FormatCost(BGRA, LINEAR, UsageBits(cpu=1), 5),
        FormatCost(BGRA, LINEAR, UsageBits(vulkan=4), 9),
    ]
    assert format_cost(index_costs(table), BGRA, LINEAR, UsageBits(cpu=1, vulkan=4)) == 9


BLOCK = SizeU(4, 4)


def padded(
    size: int,
    pixel_format: int = F.R8G8B8A8,
    *,
    min_size: SizeU,
    max_size: SizeU,
    divisor: int = 64,
    block: SizeU = BLOCK,
    size_alignment: SizeU | None = None,
) -> int | None:
    entry = ImageFormatConstraints(
        color_spaces=[ColorSpace.PASSTHROUGH],
        bytes_per_row_divisor=divisor,
        pad_for_block_size=block,
        min_size=min_size,
        max_size=max_size,
        size_alignment=size_alignment,
    )
    terms = read_terms(entry)
    of = traits(pixel_format, LINEAR)
    divisor = math.lcm(terms.bytes_per_row_divisor, of.stride_bytes * terms.pad_width)
    return padded_size(size, terms._replace(bytes_per_row_divisor=divisor), of)


HUGE = SizeU(0xFFFFFFFE, U32)


def test_42_padding_of_an_exact_size() -> None:
    assert padded(835200, min_size=SizeU(450, 450), max_size=SizeU(450, 450)) == 838912
    assert (math.ceil(835200 / 4096), math.ceil(838912 / 4096)) == (204, 205)


def test_43_padding_without_a_maximum() -> None:
    assert padded(835200, min_size=SizeU(450, 450), max_size=HUGE) == 838912


def test_44_padding_of_the_second_height() -> None:
    assert padded(838912, min_size=SizeU(1, 452), max_size=HUGE) == 844288
    assert 844288 / 838912 <= 1.0065


def test_45_padding_at_its_worst() -> None:
    result = padded(835200, min_size=SizeU(1, 1), size_alignment=SizeU(1, 2), max_size=HUGE)
    assert result == 1670400


def test_46_padding_with_a_maximal_width() -> None:
    assert padded(835200, min_size=SizeU(1, 1), max_size=SizeU(1800, U32)) == 856896


def test_47_whole_blocks_need_no_padding() -> None:
    result = padded(838912, min_size=SizeU(1, 1), size_alignment=SizeU(4, 4), max_size=HUGE)
    assert result == 838912


def test_48_padding_of_r8() -> None:
    result = padded(
        100000,
        F.R8,
        divisor=1,
        block=SizeU(1, 16),
        min_size=SizeU(1, 1),
        max_size=SizeU(1000, 1000),
    )
    assert result == 115000


def test_49_padding_beyond_the_image() -> None:
    entry = image(
        F.R8G8B8A8,
        min_size=SizeU(450, 450),
        bytes_per_row_divisor=64,
        pad_beyond_image_size_bytes=16,
    )
    settled = memory_of(agree(wants(entry)))
    assert (settled.size_bytes, settled.raw_vmo_size) == (835200, 835584)


def test_50_both_paddings_overlap() -> None:
    entry = image(
        F.R8G8B8A8,
        min_size=SizeU(450, 450),
        max_size=SizeU(450, 450),
        bytes_per_row_divisor=64,
        pad_for_block_size=SizeU(4, 4),
        pad_beyond_image_size_bytes=16,
    )
    settled = memory_of(agree(wants(entry)))
    assert (settled.size_bytes, settled.raw_vmo_size) == (835200, 839680)
