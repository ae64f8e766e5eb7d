"""The enums of `fuchsia.images2`: pixel formats, modifiers, colour spaces (`docs/spec/image-formats.md`, section 1).

All three are flexible: a number without a name is passed on as a plain integer, and the constraint checks decide about
it.
"""

from __future__ import annotations

import enum

from .docstrings import documented
from .names import NamedColors, NamedFormat


@documented
class PixelFormat(NamedFormat, enum.IntEnum):
    """The format of a pixel; 32 bits on the wire.

    Bytes are named in the order of their addresses. Bits of a word are named from the most significant one; words are
    little-endian.
    """

    INVALID = 0
    """No format. Constraints with it are refused."""
    R8G8B8A8 = 1
    """4 bytes a pixel: R, G, B and A. `is_alpha_present` tells whether A is alpha or is ignored."""
    B8G8R8A8 = 101
    """4 bytes a pixel: B, G, R and A. `is_alpha_present` tells whether A is alpha or is ignored."""
    I420 = 102
    """Three planes: Y, then U, then V, one byte a sample. U and V have one sample for 2 × 2 pixels."""
    M420 = 103
    """One plane: after each two rows of Y comes a row of interleaved U and V, one byte a sample. U and V have one
    sample for 2 × 2 pixels."""
    NV12 = 104
    """Two planes: Y, then pairs of U and V, one byte a sample. U and V have one sample for 2 × 2 pixels."""
    YUY2 = 105
    """One plane: 4 bytes for two pixels beside each other, Y0, U, Y1 and V."""
    MJPEG = 106
    """Reserved for Motion JPEG. It is not supported."""
    YV12 = 107
    """Three planes: Y, then V, then U, one byte a sample. U and V have one sample for 2 × 2 pixels."""
    B8G8R8 = 108
    """3 bytes a pixel: B, G and R."""
    R5G6B5 = 109
    """2 bytes a pixel, a word: R in bits 15 to 11, G in 10 to 5, B in 4 to 0."""
    R3G3B2 = 110
    """1 byte a pixel: R in bits 7 to 5, G in 4 to 2, B in 1 and 0."""
    R2G2B2X2 = 111
    """1 byte a pixel: R in bits 7 and 6, G in 5 and 4, B in 3 and 2; bits 1 and 0 are X."""
    L8 = 112
    """1 byte a pixel: the luminance."""
    R8 = 113
    """1 byte a pixel: red. Green and blue are 0."""
    R8G8 = 114
    """2 bytes a pixel: R and G."""
    A2R10G10B10 = 115
    """4 bytes a pixel, a word: A in bits 31 and 30, R in 29 to 20, G in 19 to 10, B in 9 to 0."""
    A2B10G10R10 = 116
    """4 bytes a pixel, a word: A in bits 31 and 30, B in 29 to 20, G in 19 to 10, R in 9 to 0."""
    P010 = 117
    """Two planes as those of NV12 with 2 bytes a sample, in the host's byte order: the value is in the top 10 bits."""
    R8G8B8 = 118
    """3 bytes a pixel: R, G and B."""
    R8G8B8X8 = 119
    """4 bytes a pixel: R, G, B and one that is ignored. Deprecated: use R8G8B8A8 with `is_alpha_present` false."""
    B8G8R8X8 = 120
    """4 bytes a pixel: B, G, R and one that is ignored. Deprecated: use B8G8R8A8 with `is_alpha_present` false."""
    DO_NOT_CARE = 0xFFFFFFFE
    """Any format. Only constraints have it; the result has the format that others asked for."""


@documented
class PixelFormatModifier(enum.IntEnum):
    """The layout of pixels in memory; 64 bits on the wire. The top 8 bits identify the vendor of the layout.

    Of Arm's AFBC layouts every combination of bits is supported, including those without a name here.
    """

    LINEAR = 0
    """Rows, one after the other. Every supported format has this layout."""
    INTEL_I915_X_TILED = 0x0100000000000001
    """Intel's X tiles: 512 bytes × 8 rows."""
    INTEL_I915_Y_TILED = 0x0100000000000002
    """Intel's Y tiles: 128 bytes × 32 rows."""
    INTEL_I915_YF_TILED = 0x0100000000000003
    """Intel's Yf tiles: 128 bytes × 32 rows, in another order inside."""
    INTEL_I915_Y_TILED_CCS = 0x0100000001000002
    """Intel's Y tiles, compressed: a colour control surface follows the image."""
    INTEL_I915_YF_TILED_CCS = 0x0100000001000003
    """Intel's Yf tiles, compressed: a colour control surface follows the image."""
    ARM_LINEAR_TE = 0x0800000000001000
    """Rows as LINEAR, and behind the image a buffer for Arm's transaction elimination."""
    ARM_AFBC_16X16 = 0x0800000000000001
    """Arm's frame buffer compression in blocks of 16 × 16 pixels."""
    ARM_AFBC_32X8 = 0x0800000000000002
    """Arm's frame buffer compression in blocks of 32 × 8 pixels."""
    ARM_AFBC_16X16_TE = 0x0800000000001001
    """As ARM_AFBC_16X16, and behind the image a buffer for transaction elimination."""
    ARM_AFBC_32X8_TE = 0x0800000000001002
    """As ARM_AFBC_32X8, and behind the image a buffer for transaction elimination."""
    ARM_AFBC_16X16_YUV_TILED_HEADER = 0x0800000000002011
    """As ARM_AFBC_16X16, with a YUV transform and tiled headers."""
    ARM_AFBC_16X16_SPLIT_BLOCK_SPARSE_YUV = 0x0800000000000071
    """As ARM_AFBC_16X16, with a YUV transform, split blocks and a sparse layout."""
    ARM_AFBC_16X16_SPLIT_BLOCK_SPARSE_YUV_TE = 0x0800000000001071
    """As ARM_AFBC_16X16_SPLIT_BLOCK_SPARSE_YUV, and behind the image a buffer for transaction elimination."""
    ARM_AFBC_16X16_SPLIT_BLOCK_SPARSE_YUV_TILED_HEADER = 0x0800000000002071
    """As ARM_AFBC_16X16_SPLIT_BLOCK_SPARSE_YUV, with tiled headers."""
    ARM_AFBC_16X16_SPLIT_BLOCK_SPARSE_YUV_TE_TILED_HEADER = 0x0800000000003071
    """As ARM_AFBC_16X16_SPLIT_BLOCK_SPARSE_YUV_TE, with tiled headers."""
    GOOGLE_GOLDFISH_OPTIMAL = 0x6700000000000001
    """The layout of the Goldfish emulator's host, which the CPU cannot read. It has the size of LINEAR."""
    DO_NOT_CARE = 0x00FFFFFFFFFFFFFE
    """Any layout. Only constraints have it; the result has the layout that others asked for."""
    INVALID = 0x00FFFFFFFFFFFFFF
    """No layout. Constraints with it are refused."""


@documented
class ColorSpace(NamedColors, enum.IntEnum):
    """The colour space of pixels; 32 bits on the wire.

    If all participants support several, the result has the first of SRGB, REC2100, REC2020, REC709,
    REC601_PAL_FULL_RANGE, REC601_PAL, REC601_NTSC_FULL_RANGE, REC601_NTSC and PASSTHROUGH.
    """

    INVALID = 0
    """No colour space. Constraints with it are refused."""
    SRGB = 1
    """The sRGB colour space, for RGB formats, L8 and R8."""
    REC601_NTSC = 2
    """ITU-R BT.601 with 525 lines (NTSC), limited range, for YUV formats, L8 and R8."""
    REC601_NTSC_FULL_RANGE = 3
    """ITU-R BT.601 with 525 lines (NTSC), full range, for YUV formats, L8 and R8."""
    REC601_PAL = 4
    """ITU-R BT.601 with 625 lines (PAL), limited range, for YUV formats, L8 and R8."""
    REC601_PAL_FULL_RANGE = 5
    """ITU-R BT.601 with 625 lines (PAL), full range, for YUV formats, L8 and R8."""
    REC709 = 6
    """ITU-R BT.709 (high definition), for YUV formats, L8 and R8."""
    REC2020 = 7
    """ITU-R BT.2020 (ultra-high definition), for P010."""
    REC2100 = 8
    """ITU-R BT.2100 (high dynamic range), for P010."""
    PASSTHROUGH = 9
    """The participants agree on the colour space in another way, or need none. It is possible with every format."""
    DO_NOT_CARE = 0xFFFFFFFE
    """Any colour space. Only constraints have it, as the only entry; the result has one that others asked for."""
