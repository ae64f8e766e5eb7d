"""One image, and the reasons why no image of a size is allowed (`docs/spec/image-formats.md`, sections 1.2 and 2.7)."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from sysmem_protocol.image_format import ImageFormat, RectU, constraints_to_format
from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.sysmem2 import CpuUsage, ImageFormatConstraints, SizeU

F, M = PixelFormat, PixelFormatModifier
U32 = 0xFFFFFFFF

# --- 2.7 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "fields"),
    [
        (9, 16, {"min_size": SizeU(10, 10)}),
        (16, 9, {"min_size": SizeU(10, 10)}),
        (21, 16, {"max_size": SizeU(20, 20)}),
        (16, 21, {"max_size": SizeU(20, 20)}),
        (18, 16, {"size_alignment": SizeU(4, 4)}),
        (16, 18, {"size_alignment": SizeU(4, 4)}),
        (16, 16, {"size_alignment": SizeU(0, 4)}),
        (16, 16, {"size_alignment": SizeU(4, 0)}),
        (16, 16, {"max_bytes_per_row": 15}),
    ],
)
def test_no_image_of_that_size(width: int, height: int, fields: dict[str, object]) -> None:
    constraints = ImageFormatConstraints(pixel_format=F.R8)
    for name, value in fields.items():
        setattr(constraints, name, value)
    assert constraints_to_format(constraints, width, height) is None
    assert constraints_to_format(ImageFormatConstraints(), 16, 16) is None


def test_constraints_to_format() -> None:
    constraints = ImageFormatConstraints(
        pixel_format=F.R8, color_spaces=[ColorSpace.SRGB, ColorSpace.PASSTHROUGH]
    )
    made = constraints_to_format(constraints, 16, 8)
    assert made == ImageFormat(
        F.R8, SizeU(16, 8), 16, M.LINEAR, ColorSpace.SRGB, display_rect=(0, 0, 16, 8)
    )


# --- an image -----------------------------------------------------------------------------------------------------


def test_nothing_in_an_image_is_none() -> None:
    image = ImageFormat(F.NV12, SizeU(64, 48), 128)
    assert image == ImageFormat(
        pixel_format=F.NV12,
        size=SizeU(64, 48),
        bytes_per_row=128,
        pixel_format_modifier=M.LINEAR,
        color_space=ColorSpace.PASSTHROUGH,
        display_rect=(0, 0, 64, 48),
    )
    assert copy.copy(image) == image


@pytest.mark.parametrize(
    ("pixel_format", "row"), [(F.NV12, 64), (F.P010, 128), (F.YUY2, 128), (F.B8G8R8, 192)]
)
def test_rows_have_no_padding_by_default(pixel_format: PixelFormat, row: int) -> None:
    assert ImageFormat(pixel_format, SizeU(64, 48)).bytes_per_row == row
    with pytest.raises(ValueError, match="not supported"):
        ImageFormat(F.MJPEG, SizeU(64, 48))


def test_plain_numbers_become_members_and_those_of_numpy_pythons_own() -> None:
    made: Any = ImageFormat
    image = made(104, SizeU(64, 48), np.uint32(128), 0, 6, [np.uint8(2), 0, 62, 48])
    assert (image.pixel_format, image.color_space) == (F.NV12, ColorSpace.REC709)
    assert type(image.pixel_format) is PixelFormat
    assert type(image.pixel_format_modifier) is PixelFormatModifier
    assert type(image.bytes_per_row) is int
    assert image.display_rect == RectU(x=2, y=0, width=62, height=48)
    assert made(104, SizeU(64, 48), 128, display_rect=np.array([2, 0, 62, 48])) == replace(
        image, color_space=ColorSpace.PASSTHROUGH
    )
    assert {type(number) for number in image.display_rect} == {int}
    unnamed = 0x0800000000000811
    assert made(1, SizeU(64, 48), 256, unnamed).pixel_format_modifier == unnamed


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("size", (64, 48), "size must be a SizeU, not tuple"),
        ("size", None, "size must be a SizeU, not NoneType"),
        ("bytes_per_row", True, "bytes_per_row must be an int, not bool"),
        ("bytes_per_row", F.NV12, "bytes_per_row must be an int, not PixelFormat"),
        ("pixel_format", "NV12", "pixel_format must be a PixelFormat, not str"),
        ("pixel_format", CpuUsage.READ, "pixel_format must be a PixelFormat, not CpuUsage"),
        ("color_space", 1.0, "color_space must be a ColorSpace, not float"),
        (
            "display_rect",
            (0, 0, 64),
            r"display_rect must be \(x, y, width, height\), not \(0, 0, 64\)",
        ),
        ("display_rect", 64, r"display_rect must be \(x, y, width, height\), not 64"),
        ("display_rect", (0, 0, 6.4, 1), "display_rect must be an int, not float"),
    ],
)
def test_another_type_is_refused(field: str, value: object, message: str) -> None:
    fields: Any = {"pixel_format": F.NV12, "size": SizeU(64, 48), "bytes_per_row": 64}
    with pytest.raises(TypeError, match=f"^{message}$"):
        ImageFormat(**{**fields, field: value})


def test_an_unknown_number_is_refused() -> None:
    made: Any = ImageFormat
    with pytest.raises(ValueError, match="pixel_format: 9999 is not a number of a PixelFormat"):
        made(9999, SizeU(64, 48), 64)


def test_an_image_is_written_with_names() -> None:
    image = ImageFormat(F.R8, SizeU(4, 2), 64, color_space=ColorSpace.SRGB)
    assert repr(image) == (
        "ImageFormat(pixel_format=PixelFormat.R8, size=SizeU(width=4, height=2), bytes_per_row=64, "
        "pixel_format_modifier=PixelFormatModifier.LINEAR, color_space=ColorSpace.SRGB, "
        "display_rect=RectU(x=0, y=0, width=4, height=2))"
    )


# --- the image of constraints -------------------------------------------------------------------------------------


def constraints(**fields: Any) -> ImageFormatConstraints:
    return ImageFormatConstraints(
        **{"pixel_format": F.NV12, "pixel_format_modifier": M.LINEAR, **fields}
    )


CAMERA = constraints(
    min_size=SizeU(50, 30),
    max_size=SizeU(2000, 1000),
    size_alignment=SizeU(16, 2),
    bytes_per_row_divisor=64,
)


def test_the_image_of_constraints_is_the_least_allowed_unless_a_size_is_given() -> None:
    assert ImageFormat.of(CAMERA).size == SizeU(64, 30)
    larger = ImageFormat.of(CAMERA, SizeU(112, 60))
    assert (larger.bytes_per_row, larger.byte_size()) == (128, 128 * 90)
    assert (larger.plane_byte_offset(1), larger.plane_row_bytes(1)) == (128 * 60, 128)


@pytest.mark.parametrize(
    ("size", "fields", "reason"),
    [
        ((1365, 768), {}, "width must be a multiple of 16: the next are 1360 and 1376"),
        ((64, 31), {}, "height must be a multiple of 2: the next are 30 and 32"),
        (
            (65, 31),
            {},
            "width must be a multiple of 16: the next are 64 and 80; "
            "height must be a multiple of 2: the next are 30 and 32",
        ),
        ((48, 30), {}, r"width must be at least 64 \(min_size\), not 48"),
        ((64, 28), {}, r"height must be at least 30 \(min_size\), not 28"),
        ((2016, 30), {}, r"width must be at most 2000 \(max_size\), not 2016"),
        ((64, 1002), {}, r"height must be at most 1000 \(max_size\), not 1002"),
        (
            (2000, 30),
            {"max_size": SizeU(1999, 1000)},
            r"width must be at most 1984 \(max_size\), not 2000",
        ),
        # The requirements of the format itself, if the constraints were not negotiated.
        (
            (5, 4),
            {"size_alignment": None, "min_size": None},
            "width must be a multiple of 2: the next are 4 and 6",
        ),
        ((0, 4), {"size_alignment": None, "min_size": None}, "width must be at least 2, not 0"),
        (
            (64, 32),
            {"max_width_times_height": 2000},
            r"width × height must be at most 2000 \(max_width_times_height\), not 2048",
        ),
        (
            (80, 32),
            {"max_bytes_per_row": 127},
            r"a row of 80 pixels takes more than 127 bytes \(max_bytes_per_row\)",
        ),
        (
            (64, 32),
            {"bytes_per_row_divisor": 0},
            r"a row of 64 pixels takes more than 4294967295 bytes \(max_bytes_per_row\)",
        ),
        ((64, 32), {"size_alignment": SizeU(0, 2)}, "size_alignment.width is 0"),
        ((64, 32), {"pixel_format": None}, "the constraints have no pixel_format"),
        ((64, 32), {"pixel_format": F.MJPEG}, "MJPEG LINEAR is not a format of images"),
        (
            (64, 32),
            {"pixel_format_modifier": M.GOOGLE_GOLDFISH_OPTIMAL},
            "GOOGLE_GOLDFISH_OPTIMAL does not define the length of a row",
        ),
    ],
)
def test_a_size_that_is_not_allowed_is_refused_with_what_would_be(
    size: tuple[int, int], fields: dict[str, Any], reason: str
) -> None:
    changed = replace(CAMERA, **fields)
    with pytest.raises(ValueError, match=f"^{reason}$"):
        ImageFormat.of(changed, SizeU(*size))


def test_constraints_that_have_no_size_need_one() -> None:
    sizeless = constraints(max_size=SizeU(8, 8))
    with pytest.raises(ValueError, match="have no min_size"):
        ImageFormat.of(sizeless)
    assert ImageFormat.of(sizeless, SizeU(8, 8)).size == SizeU(8, 8)


def test_another_kind_of_object_is_refused() -> None:
    of: Any = ImageFormat.of
    with pytest.raises(TypeError, match=r"expected an ImageFormat or .*, not str"):
        of("NV12")
    with pytest.raises(TypeError, match="expected a SizeU, not tuple"):
        of(CAMERA, (64, 48))
