"""`docs/spec/image-formats.md`, sections 2.2 to 2.7 and 2.12: cases that the worked examples do not cover."""

from __future__ import annotations

import pytest

from sysmem_protocol.image_format import ImageFormat
from sysmem_protocol.images2 import PixelFormat, PixelFormatModifier
from sysmem_protocol.sizes import (
    image_size,
    minimum_row_bytes,
    round_down,
    round_up,
    te_row_bytes,
)
from sysmem_protocol.sysmem2 import ImageFormatConstraints, SizeU

F, M = PixelFormat, PixelFormatModifier
U32 = 0xFFFFFFFF


def of(
    pixel_format: PixelFormat, modifier: int = 0, size: SizeU | None = None, row: int = 64
) -> ImageFormat:
    return ImageFormat(pixel_format, size or SizeU(16, 16), row, modifier)


def planes(image: ImageFormat) -> list[tuple[int | None, int | None]]:
    return [(image.plane_byte_offset(i), image.plane_row_bytes(i)) for i in range(4)]


NO = (None, None)


def test_rounding() -> None:
    assert (round_up(0, 4), round_up(5, 4), round_up(8, 4)) == (0, 8, 8)
    assert (round_down(3, 4), round_down(5, 4)) == (0, 4)


def test_unsupported_pairs_have_no_size_nor_planes() -> None:
    for pixel_format, modifier in ((F.MJPEG, M.LINEAR), (F.NV12, M.ARM_AFBC_16X16), (F.R8, 99)):
        assert image_size(pixel_format, modifier, 16, 16, 64) is None
        assert planes(of(pixel_format, modifier)) == [NO] * 4
        constraints = ImageFormatConstraints(
            pixel_format=pixel_format, pixel_format_modifier=modifier
        )
        assert minimum_row_bytes(constraints, 16) is None


def test_linear_planes() -> None:
    assert planes(of(F.R8)) == [(0, 64), NO, NO, NO]
    assert planes(of(F.M420)) == [(0, 64), NO, NO, NO]
    assert planes(of(F.NV12)) == planes(of(F.P010)) == [(0, 64), (1024, 64), NO, NO]
    assert planes(of(F.YV12)) == [(0, 64), (1024, 32), (1280, 32), NO]


def test_planes_with_transaction_elimination() -> None:
    assert [te_row_bytes(width) for width in (128, 129, 544)] == [64, 128, 320]
    extra = (1536, 64)
    assert planes(of(F.NV12, M.ARM_LINEAR_TE)) == [(0, 64), (1024, 64), NO, extra]
    endless = of(F.NV12, M.ARM_LINEAR_TE, SizeU(16, U32), U32)
    assert endless.plane_byte_offset(3) is None
    assert endless.byte_size() is None


def test_afbc_planes_are_told_without_looking_at_the_te_bit() -> None:
    """Quirk 6."""
    assert planes(of(F.B8G8R8A8, M.ARM_AFBC_16X16)) == [(0, 0), NO, NO, (2048, 64)]


def test_intel_planes() -> None:
    """The extra plane has an offset without a colour-control surface (quirk 6), but no bytes per row."""
    tiled = [(0, 128), (4096, 128), NO, (8192, None)]
    assert planes(of(F.NV12, M.INTEL_I915_Y_TILED)) == tiled
    assert planes(of(F.B8G8R8A8, M.INTEL_I915_X_TILED)) == [(0, 512), NO, NO, (8192, None)]
    too_wide = of(F.B8G8R8A8, M.INTEL_I915_X_TILED, row=U32)
    assert too_wide.plane_row_bytes(0) is None
    too_big = of(F.NV12, M.INTEL_I915_Y_TILED_CCS, SizeU(16, U32), 64)
    assert too_big.byte_size() is None


def test_goldfish_planes() -> None:
    assert planes(of(F.NV12, M.GOOGLE_GOLDFISH_OPTIMAL)) == [(0, 64), NO, NO, NO]


def test_an_afbc_image_over_64_bits() -> None:
    assert image_size(F.B8G8R8A8, M.ARM_AFBC_16X16, U32, U32, 0) is None


def row(pixel_format: int, modifier: int, width: int, **fields: object) -> int | None:
    constraints = ImageFormatConstraints(pixel_format=pixel_format, pixel_format_modifier=modifier)
    for name, value in fields.items():
        setattr(constraints, name, value)
    return minimum_row_bytes(constraints, width)


def test_minimum_row_without_an_answer() -> None:
    assert minimum_row_bytes(ImageFormatConstraints(), 16) is None
    assert row(F.R8, M.LINEAR, 0) is None
    assert row(F.R8, M.GOOGLE_GOLDFISH_OPTIMAL, 16) is None
    assert row(F.R8, M.LINEAR, 16, max_bytes_per_row=15) is None
    assert row(F.R8, M.LINEAR, U32, size_alignment=SizeU(16, 1)) is None
    assert row(F.R8, M.LINEAR, U32 - 15, size_alignment=SizeU(16, 1)) == U32 - 15
    assert row(F.R8, M.LINEAR, U32, bytes_per_row_divisor=64) is None


@pytest.mark.parametrize(
    ("modifier", "minimum"), [(M.LINEAR, 80), (M.ARM_LINEAR_TE, 80), (M.INTEL_I915_Y_TILED, 256)]
)
def test_minimum_row_is_at_least_min_bytes_per_row(
    modifier: PixelFormatModifier, minimum: int
) -> None:
    fields = {"min_bytes_per_row": minimum - 1, "bytes_per_row_divisor": 16}
    assert row(F.B8G8R8A8, modifier, 16, **fields) == minimum


@pytest.mark.parametrize("width", [11, 101])
def test_minimum_row_of_afbc_outside_the_limits(width: int) -> None:
    limits = {"min_size": SizeU(12, 1), "max_size": SizeU(100, 100)}
    assert row(F.B8G8R8A8, M.ARM_AFBC_16X16, width, **limits) is None


def test_minimum_row_of_afbc_over_32_bits() -> None:
    assert row(F.B8G8R8A8, M.ARM_AFBC_16X16, U32) is None


def test_minimum_row_of_intel() -> None:
    assert row(F.B8G8R8A8, M.INTEL_I915_Y_TILED, 16, bytes_per_row_divisor=0) is None
    assert row(F.B8G8R8A8, M.INTEL_I915_Y_TILED, 16, bytes_per_row_divisor=U32) is None
    assert row(F.B8G8R8A8, M.INTEL_I915_Y_TILED, 16, bytes_per_row_divisor=129) == 256
