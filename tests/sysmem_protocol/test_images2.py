"""The numbers of pixel formats, modifiers and colour spaces (`docs/spec/image-formats.md`, section 1)."""

from __future__ import annotations

import enum

import pytest

from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier

PIXEL_FORMATS = {
    "INVALID": 0, "R8G8B8A8": 1, "B8G8R8A8": 101, "I420": 102, "M420": 103, "NV12": 104,
    "YUY2": 105, "MJPEG": 106, "YV12": 107, "B8G8R8": 108, "R5G6B5": 109, "R3G3B2": 110,
    "R2G2B2X2": 111, "L8": 112, "R8": 113, "R8G8": 114, "A2R10G10B10": 115, "A2B10G10R10": 116,
    "P010": 117, "R8G8B8": 118, "R8G8B8X8": 119, "B8G8R8X8": 120, "DO_NOT_CARE": 0xFFFFFFFE,
}  # fmt: skip
MODIFIERS = {
    "LINEAR": 0,
    "INTEL_I915_X_TILED": 0x0100000000000001,
    "INTEL_I915_Y_TILED": 0x0100000000000002,
    "INTEL_I915_YF_TILED": 0x0100000000000003,
    "INTEL_I915_Y_TILED_CCS": 0x0100000001000002,
    "INTEL_I915_YF_TILED_CCS": 0x0100000001000003,
    "ARM_LINEAR_TE": 0x0800000000001000,
    "ARM_AFBC_16X16": 0x0800000000000001,
    "ARM_AFBC_32X8": 0x0800000000000002,
    "ARM_AFBC_16X16_TE": 0x0800000000001001,
    "ARM_AFBC_32X8_TE": 0x0800000000001002,
    "ARM_AFBC_16X16_YUV_TILED_HEADER": 0x0800000000002011,
    "ARM_AFBC_16X16_SPLIT_BLOCK_SPARSE_YUV": 0x0800000000000071,
    "ARM_AFBC_16X16_SPLIT_BLOCK_SPARSE_YUV_TE": 0x0800000000001071,
    "ARM_AFBC_16X16_SPLIT_BLOCK_SPARSE_YUV_TILED_HEADER": 0x0800000000002071,
    "ARM_AFBC_16X16_SPLIT_BLOCK_SPARSE_YUV_TE_TILED_HEADER": 0x0800000000003071,
    "GOOGLE_GOLDFISH_OPTIMAL": 0x6700000000000001,
    "DO_NOT_CARE": 0x00FFFFFFFFFFFFFE,
    "INVALID": 0x00FFFFFFFFFFFFFF,
}
COLOR_SPACES = {
    "INVALID": 0, "SRGB": 1, "REC601_NTSC": 2, "REC601_NTSC_FULL_RANGE": 3, "REC601_PAL": 4,
    "REC601_PAL_FULL_RANGE": 5, "REC709": 6, "REC2020": 7, "REC2100": 8, "PASSTHROUGH": 9,
    "DO_NOT_CARE": 0xFFFFFFFE,
}  # fmt: skip


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        (PixelFormat, PIXEL_FORMATS),
        (PixelFormatModifier, MODIFIERS),
        (ColorSpace, COLOR_SPACES),
    ],
)
def test_every_name_has_its_number_and_there_are_no_others(
    declared: type[enum.IntEnum], expected: dict[str, int]
) -> None:
    assert {name: int(member) for name, member in declared.__members__.items()} == expected
