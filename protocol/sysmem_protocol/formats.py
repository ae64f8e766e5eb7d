"""Properties of pixel formats, modifiers and colour spaces.

The tables and rules are those of `docs/spec/image-formats.md`, sections 1, 2.1 and 2.8 to 2.11.
"""

from __future__ import annotations

import enum
from functools import lru_cache
from typing import NamedTuple

from .images2 import ColorSpace, PixelFormat, PixelFormatModifier

FORMAT_DO_NOT_CARE = int(PixelFormat.DO_NOT_CARE)
MODIFIER_DO_NOT_CARE = int(PixelFormatModifier.DO_NOT_CARE)
COLOR_DO_NOT_CARE = int(ColorSpace.DO_NOT_CARE)
LINEAR = int(PixelFormatModifier.LINEAR)
ARM_LINEAR_TE = int(PixelFormatModifier.ARM_LINEAR_TE)
GOLDFISH = int(PixelFormatModifier.GOOGLE_GOLDFISH_OPTIMAL)
PASSTHROUGH = int(ColorSpace.PASSTHROUGH)


# --- 1.1 pixel formats --------------------------------------------------------------------------------------------


class ColorType(enum.Flag):
    """The meaning of a pixel's samples."""

    RGB = enum.auto()
    YUV = enum.auto()


class Pixel(NamedTuple):
    """A row of the table of pixel formats."""

    #: Bits per pixel over all planes (15 for P010, a quirk that nothing in allocation uses).
    bits_per_pixel: int
    #: Stride bytes per width pixel of plane 0.
    stride_bytes: int
    planes: int
    #: Width and height of a surface are multiples of this.
    divisor: int
    #: Image start and rows of plane 0 are multiples of this many bytes.
    sample_alignment: int
    sample_bits: int
    color_type: ColorType
    #: One plane, not subsampled: the formats that allow padding to blocks. P010 is not, despite the reference's flag.
    single_plane: bool
    #: Whether it has an A or X channel.
    alpha: bool


_RGB, _YUV, _BOTH = ColorType.RGB, ColorType.YUV, ColorType.RGB | ColorType.YUV
_F = PixelFormat

#: The linear set: every format that can be addressed in rows.
PIXELS: dict[int, Pixel] = {
    #                    bpp spp planes div SA bits type single alpha
    _F.R8G8B8A8: Pixel(32, 4, 1, 1, 4, 8, _RGB, True, True),
    _F.R8G8B8X8: Pixel(32, 4, 1, 1, 4, 8, _RGB, True, True),
    _F.B8G8R8A8: Pixel(32, 4, 1, 1, 4, 8, _RGB, True, True),
    _F.B8G8R8X8: Pixel(32, 4, 1, 1, 4, 8, _RGB, True, True),
    _F.I420: Pixel(12, 1, 3, 2, 2, 8, _YUV, False, False),
    _F.M420: Pixel(12, 1, 1, 2, 2, 8, _YUV, False, False),
    _F.NV12: Pixel(12, 1, 2, 2, 2, 8, _YUV, False, False),
    _F.YUY2: Pixel(16, 2, 1, 2, 2, 8, _YUV, False, False),
    _F.YV12: Pixel(12, 1, 3, 2, 2, 8, _YUV, False, False),
    _F.B8G8R8: Pixel(24, 3, 1, 1, 1, 8, _RGB, True, False),
    _F.R5G6B5: Pixel(16, 2, 1, 1, 2, 8, _RGB, True, False),
    _F.R3G3B2: Pixel(8, 1, 1, 1, 1, 8, _RGB, True, False),
    _F.R2G2B2X2: Pixel(8, 1, 1, 1, 1, 8, _RGB, True, True),
    _F.L8: Pixel(8, 1, 1, 1, 1, 8, _BOTH, True, False),
    _F.R8: Pixel(8, 1, 1, 1, 1, 8, _BOTH, True, False),
    _F.R8G8: Pixel(16, 2, 1, 1, 2, 8, _RGB, True, False),
    _F.A2R10G10B10: Pixel(32, 4, 1, 1, 4, 8, _RGB, True, True),
    _F.A2B10G10R10: Pixel(32, 4, 1, 1, 4, 8, _RGB, True, True),
    _F.P010: Pixel(15, 2, 2, 2, 4, 10, _YUV, False, False),
    _F.R8G8B8: Pixel(24, 3, 1, 1, 1, 8, _RGB, True, False),
}
#: Two chroma samples per 2 × 2 pixels follow the luma: the image is one and a half times plane 0.
HALF_AGAIN = frozenset({_F.I420, _F.M420, _F.NV12, _F.YV12, _F.P010})
#: The formats with 32 bits of RGB and A or X, which tiled and compressed modifiers support.
RGB32 = frozenset({_F.R8G8B8A8, _F.R8G8B8X8, _F.B8G8R8A8, _F.B8G8R8X8})


# --- 1.3 modifiers ------------------------------------------------------------------------------------------------


class Family(enum.Enum):
    """A kind of layout. Each supported modifier belongs to one."""

    LINEAR = enum.auto()
    LINEAR_TE = enum.auto()
    AFBC = enum.auto()
    INTEL = enum.auto()
    GOLDFISH = enum.auto()


class Layout(NamedTuple):
    """The memory layout of a modifier, in the units of its family."""

    family: Family
    #: INTEL: the tile's bytes × rows. AFBC: the block's pixels × pixels.
    tile_width: int = 1
    tile_height: int = 1
    #: AFBC: width and height are rounded up to these, pixels.
    align_width: int = 1
    align_height: int = 1
    #: AFBC: the header is rounded up to this, bytes.
    body_alignment: int = 1
    #: A transaction-elimination buffer follows.
    te: bool = False
    #: INTEL: a colour-control surface follows.
    ccs: bool = False


#: YUV | SPLIT_BLOCK | SPARSE | BCH | TE | TILED_HEADER: the bits that can be combined with any AFBC base.
AFBC_BITS = 0x3870
TE_BIT = 0x1000
TILED_HEADER_BIT = 0x2000
_AFBC_16X16 = int(PixelFormatModifier.ARM_AFBC_16X16)
_AFBC_32X8 = int(PixelFormatModifier.ARM_AFBC_32X8)
_BARE_ARM = 0x0800000000000000

_M = PixelFormatModifier
_LAYOUTS: dict[int, Layout] = {
    _M.LINEAR: Layout(Family.LINEAR),
    _M.ARM_LINEAR_TE: Layout(Family.LINEAR_TE, te=True),
    _M.INTEL_I915_X_TILED: Layout(Family.INTEL, 512, 8),
    _M.INTEL_I915_Y_TILED: Layout(Family.INTEL, 128, 32),
    _M.INTEL_I915_YF_TILED: Layout(Family.INTEL, 128, 32),
    _M.INTEL_I915_Y_TILED_CCS: Layout(Family.INTEL, 128, 32, ccs=True),
    _M.INTEL_I915_YF_TILED_CCS: Layout(Family.INTEL, 128, 32, ccs=True),
    _M.GOOGLE_GOLDFISH_OPTIMAL: Layout(Family.GOLDFISH),
}


def layout(modifier: int) -> Layout | None:
    """Return the layout of a modifier that some format supports, or None for any other number."""
    known = _LAYOUTS.get(modifier)
    if known is not None:
        return known
    base = modifier & ~AFBC_BITS
    if base == _AFBC_16X16:
        width, height = 16, 16
    elif base == _AFBC_32X8:
        width, height = 32, 8
    else:
        return None
    te = bool(modifier & TE_BIT)
    if modifier & TILED_HEADER_BIT:
        return Layout(Family.AFBC, width, height, width * 8, height * 8, 4096, te)
    return Layout(Family.AFBC, width, height, width, height, 1024, te)


def is_supported(pixel_format: int, modifier: int) -> bool:
    """Return whether images of this format and modifier exist (`docs/spec/image-formats.md`, section 2.1).

    Goldfish is restricted to the linear set (quirk 7), because other formats have no size.
    """
    known = layout(modifier)
    if known is None:
        return False
    if known.family is Family.AFBC:
        return pixel_format in RGB32
    if known.family is Family.INTEL:
        return pixel_format in RGB32 or pixel_format == PixelFormat.NV12
    return pixel_format in PIXELS


def is_specific(pixel_format: int, modifier: int) -> bool:
    """Return whether neither member is DO_NOT_CARE."""
    return pixel_format != FORMAT_DO_NOT_CARE and modifier != MODIFIER_DO_NOT_CARE


def is_compatible_with_protected_memory(modifier: int) -> bool:
    """Return whether secure buffers can have this layout (2.10). Those with transaction elimination can't."""
    if modifier & ~AFBC_BITS in (_BARE_ARM, _AFBC_16X16, _AFBC_32X8):
        return not modifier & TE_BIT
    return True


def is_non_tiled_single_plane(pixel_format: int, modifier: int) -> bool:
    """Return whether padding to blocks is defined (2.11)."""
    return modifier == LINEAR and pixel_format in PIXELS and PIXELS[pixel_format].single_plane


def has_alpha_or_x(pixel_format: int) -> bool:
    """Return whether `is_alpha_present` is meaningful for the format."""
    return pixel_format in PIXELS and PIXELS[pixel_format].alpha


# --- 1.4 colour spaces --------------------------------------------------------------------------------------------

_C = ColorSpace
#: Bits per sample and type of the colour spaces that define colours; PASSTHROUGH is possible with any format.
_COLORS: dict[int, tuple[frozenset[int], ColorType]] = {
    _C.SRGB: (frozenset({8, 10, 12, 16}), ColorType.RGB),
    _C.REC601_NTSC: (frozenset({8, 10}), ColorType.YUV),
    _C.REC601_NTSC_FULL_RANGE: (frozenset({8, 10}), ColorType.YUV),
    _C.REC601_PAL: (frozenset({8, 10}), ColorType.YUV),
    _C.REC601_PAL_FULL_RANGE: (frozenset({8, 10}), ColorType.YUV),
    _C.REC709: (frozenset({8, 10}), ColorType.YUV),
    _C.REC2020: (frozenset({10, 12}), ColorType.YUV),
    _C.REC2100: (frozenset({10, 12}), ColorType.YUV),
}
#: The preference after aggregation, best first (`docs/spec/constraints.md`, section 4).
COLOR_PREFERENCE: tuple[int, ...] = (
    _C.SRGB,
    _C.REC2100,
    _C.REC2020,
    _C.REC709,
    _C.REC601_PAL_FULL_RANGE,
    _C.REC601_PAL,
    _C.REC601_NTSC_FULL_RANGE,
    _C.REC601_NTSC,
    _C.PASSTHROUGH,
)
COLOR_RANK: dict[int, int] = {int(space): rank for rank, space in enumerate(COLOR_PREFERENCE, 1)}


def supports_color_space(pixel_format: int, color_space: int) -> bool:
    """Return whether this format can have this colour space (2.9). The modifier does not matter."""
    if color_space == PASSTHROUGH:
        return True
    if color_space not in _COLORS:
        return False
    if pixel_format == PixelFormat.MJPEG:  # it is only in the colour table, and is never supported
        sample_bits, color_type = 8, ColorType.RGB
    elif pixel_format in PIXELS:
        pixel = PIXELS[pixel_format]
        sample_bits, color_type = pixel.sample_bits, pixel.color_type
    else:
        return False
    bits, type_ = _COLORS[color_space]
    return sample_bits in bits and bool(type_ & color_type)


# --- the properties of a supported pair that checks and sizes depend on -------------------------------------------


class Traits(NamedTuple):
    """The properties of a supported (format, modifier) on which constraints depend. Equal traits have equal results.

    Entries with the same terms and equal traits are computed only once, which keeps long lists of formats cheap.
    """

    stride_bytes: int
    divisor: int
    sample_alignment: int
    single_plane: bool
    color_spaces: frozenset[int]
    layout: Layout


@lru_cache(maxsize=1024)
def traits(pixel_format: int, modifier: int) -> Traits:
    """Return the traits of a supported pair. Raises `ValueError` for any other."""
    known = layout(modifier)
    if known is None or not is_supported(pixel_format, modifier):
        raise ValueError(f"not supported: format {pixel_format} with modifier {modifier:#x}")
    pixel = PIXELS[pixel_format]
    return Traits(
        pixel.stride_bytes,
        pixel.divisor,
        pixel.sample_alignment,
        is_non_tiled_single_plane(pixel_format, modifier),
        frozenset(c for c in COLOR_PREFERENCE if supports_color_space(pixel_format, c)),
        known,
    )


# --- names for people ---------------------------------------------------------------------------------------------


def format_name(pixel_format: int) -> str:
    """Return the name, such as `NV12`, or an unknown number as text."""
    try:
        return PixelFormat(pixel_format).name
    except ValueError:
        return str(pixel_format)


def modifier_name(modifier: int) -> str:
    """Return the name, such as `LINEAR`, or an unknown number in hexadecimal."""
    try:
        return PixelFormatModifier(modifier).name
    except ValueError:
        return f"{modifier:#018x}"


def pair_name(pair: tuple[int, int]) -> str:
    """Return the names of both members, such as `NV12 LINEAR`."""
    return f"{format_name(pair[0])} {modifier_name(pair[1])}"


def color_name(color_space: int) -> str:
    """Return the name, such as `REC709`, or an unknown number as text."""
    try:
        return ColorSpace(color_space).name
    except ValueError:
        return str(color_space)
