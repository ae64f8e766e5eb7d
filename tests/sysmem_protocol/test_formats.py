"""`docs/spec/image-formats.md`, sections 1 and 2: the tables, and the functions that use them."""

from __future__ import annotations

import functools
import operator

import pytest

from sysmem_protocol.formats import (
    COLOR_PREFERENCE,
    COLOR_RANK,
    PIXELS,
    RGB32,
    ColorType,
    Pixel,
    color_name,
    format_name,
    has_alpha_or_x,
    is_compatible_with_protected_memory,
    is_non_tiled_single_plane,
    is_supported,
    modifier_name,
    pair_name,
    supports_color_space,
    traits,
)
from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.sizes import bits_per_pixel

from ..spec_pages import rows

F, M, C = PixelFormat, PixelFormatModifier, ColorSpace
LINEAR_SET = set(F) - {F.INVALID, F.MJPEG, F.DO_NOT_CARE}
REC601 = {C.REC601_NTSC, C.REC601_NTSC_FULL_RANGE, C.REC601_PAL, C.REC601_PAL_FULL_RANGE}
YUV8 = {F.I420, F.M420, F.NV12, F.YUY2, F.YV12}

MODIFIERS = "1.3 PixelFormatModifier (flexible enum, uint64; top 8 bits = vendor)"
COLORS = "1.4 ColorSpace (flexible enum, uint32)"
PIXEL_FORMATS = rows("image-formats.md", "1.1 PixelFormat (flexible enum, uint32)", 11)


def types(cell: str) -> ColorType:
    """Read the types of a table's cell, such as `RGB+YUV`."""
    return functools.reduce(operator.or_, (ColorType[name] for name in cell.split("+")))


#: By name: bits per sample and colour type.
SAMPLES = {
    name.removesuffix(" (deprecated)"): (int(bits), types(kind))
    for name, *_, samples, _, _ in PIXEL_FORMATS
    if samples != "-"
    for bits, kind in [samples.split("/")]
}
TABLE = {
    name: Pixel(
        int(bits.removesuffix(" [Q1]")),
        int(stride),
        int(planes),
        int(divisors.removesuffix(f",{divisors[0]}")),
        int(alignment),
        *SAMPLES[name],
        single.startswith("yes"),
        alpha == "yes",
    )
    for name, _, _, bits, stride, planes, divisors, alignment, _, single, alpha in (
        (row[0].removesuffix(" (deprecated)"), *row[1:]) for row in PIXEL_FORMATS
    )
    if bits != "-"
}


def test_the_linear_set() -> None:
    assert set(PIXELS) == LINEAR_SET == {F[name] for name in TABLE}


@pytest.mark.parametrize("name", TABLE)
def test_pixel_formats(name: str) -> None:
    assert PIXELS[F[name]] == TABLE[name]
    assert bits_per_pixel(F[name]) == TABLE[name].bits_per_pixel


@pytest.mark.parametrize(
    ("name", "sets"),
    [
        (name, sets.removesuffix(" [Q7]"))
        for name, _, _, sets in rows("image-formats.md", MODIFIERS, 4)
    ],
)
def test_supported_formats_of_each_modifier(name: str, sets: str) -> None:
    named = {"linear set": LINEAR_SET, "RGB32": RGB32, "NV12": {F.NV12}, "none": set()}
    expected = {int(number) for each in sets.split(" + ") for number in named[each]}
    assert {number for number in range(1000) if is_supported(number, M[name])} == expected
    assert not is_supported(F.DO_NOT_CARE, M[name])


def test_any_combination_of_afbc_bits_is_supported() -> None:
    for bits in (0x10, 0x20, 0x40, 0x800, 0x1000, 0x2000, 0x3870):
        assert is_supported(F.B8G8R8A8, M.ARM_AFBC_16X16 | bits)
        assert is_supported(F.R8G8B8X8, M.ARM_AFBC_32X8 | bits)
    assert not is_supported(F.B8G8R8A8, M.ARM_AFBC_16X16 | 0x4000)
    assert not is_supported(F.B8G8R8A8, 0x0800000000000003)


def test_traits_of_an_unsupported_pair() -> None:
    for pair in ((F.MJPEG, M.LINEAR), (F.NV12, M.INVALID)):
        with pytest.raises(ValueError, match="not supported"):
            traits(*pair)


@pytest.mark.parametrize("pixel_format", F)
def test_color_spaces_of_each_format(pixel_format: PixelFormat) -> None:
    expected = {C.PASSTHROUGH}
    if pixel_format in YUV8 | {F.P010, F.L8, F.R8}:
        expected |= REC601 | {C.REC709}
    if pixel_format == F.P010:
        expected |= {C.REC2020, C.REC2100}
    if pixel_format in LINEAR_SET - YUV8 - {F.P010} | {F.MJPEG}:
        expected |= {C.SRGB}
    assert {space for space in C if supports_color_space(pixel_format, space)} == expected
    assert not supports_color_space(pixel_format, 77)


@pytest.mark.parametrize("row", rows("image-formats.md", COLORS, 5))
def test_bits_type_and_rank_of_each_color_space(row: list[str]) -> None:
    name, _, bits, kind, rank = row
    expected = {
        pixel_format
        for pixel_format, (sample_bits, color_type) in SAMPLES.items()
        if bits == "any" or (bits != "-" and str(sample_bits) in bits.split(","))
        if kind == "any" or color_type & types(kind)
    }
    assert {each for each in SAMPLES if supports_color_space(F[each], C[name])} == expected
    assert str(COLOR_RANK.get(C[name], "-")) == rank


def test_unknown_formats_pass_through_only() -> None:
    assert supports_color_space(4711, C.PASSTHROUGH)
    assert not supports_color_space(4711, C.SRGB)


def test_color_space_preference() -> None:
    names = """SRGB REC2100 REC2020 REC709 REC601_PAL_FULL_RANGE REC601_PAL REC601_NTSC_FULL_RANGE
    REC601_NTSC PASSTHROUGH"""
    assert list(COLOR_PREFERENCE) == [C[name] for name in names.split()]
    assert [COLOR_RANK[space] for space in COLOR_PREFERENCE] == list(range(1, 10))


@pytest.mark.parametrize(
    ("modifier", "compatible"),
    [
        (M.LINEAR, True),
        (M.ARM_LINEAR_TE, False),
        (M.ARM_AFBC_16X16, True),
        (M.ARM_AFBC_32X8_TE, False),
        (0x0800000000000000, True),
        (M.INTEL_I915_Y_TILED_CCS, True),
        (M.GOOGLE_GOLDFISH_OPTIMAL, True),
        (0x0800000000001003, True),
    ],
)
def test_protected_memory(modifier: int, compatible: bool) -> None:
    assert is_compatible_with_protected_memory(modifier) is compatible


def test_non_tiled_single_plane() -> None:
    """P010 is not a single plane (quirk 2), and neither are YUY2 and M420 (quirk 3)."""
    multiple = {F.I420, F.M420, F.NV12, F.YUY2, F.YV12, F.P010}
    single = {number for number in range(200) if is_non_tiled_single_plane(number, M.LINEAR)}
    assert single == {int(number) for number in LINEAR_SET - multiple}
    assert not is_non_tiled_single_plane(F.R8, M.ARM_LINEAR_TE)


def test_alpha_or_x() -> None:
    with_it = {*RGB32, F.R2G2B2X2, F.A2R10G10B10, F.A2B10G10R10}
    assert {int(number) for number in F if has_alpha_or_x(number)} == {int(n) for n in with_it}


def test_names() -> None:
    assert format_name(104) == "NV12"
    assert format_name(4711) == "4711"
    assert modifier_name(0) == "LINEAR"
    assert modifier_name(0x0800000000000811) == "0x0800000000000811"
    assert pair_name((104, 0)) == "NV12 LINEAR"
    assert (color_name(6), color_name(77)) == ("REC709", "77")
