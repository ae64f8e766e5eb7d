"""Planes of an image in a buffer as numpy arrays, without a copy; needs the extra `sysmem[numpy]`.

What each linear format looks like is `spec/image-formats.md` 1.1; where its planes are, :mod:`sysmem_protocol.sizes`.
"""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING, Any, NamedTuple

from sysmem_protocol.formats import ARM_LINEAR_TE, LINEAR, format_name, modifier_name, traits
from sysmem_protocol.images2 import PixelFormat
from sysmem_protocol.sizes import ImageFormat, round_up
from sysmem_protocol.sysmem2 import ImageFormatConstraints, SizeU

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Plane(NamedTuple):
    """How the samples of one plane lie."""

    #: numpy's name of a sample's type.
    dtype: str = "u1"
    #: Samples at each place, the last axis of the array; 0 is one sample and no axis.
    channels: int = 0
    #: Pixels that one place spans.
    across: int = 1
    #: Rows for each two rows of the image.
    rows_of_two: int = 2


_CHROMA = Plane(across=2, rows_of_two=1)
_F = PixelFormat

#: The planes of every format of the linear set. Samples of P010 are in the host's order, all else is little-endian.
PLANES: dict[int, tuple[Plane, ...]] = {
    _F.R8G8B8A8: (Plane(channels=4),),
    _F.R8G8B8X8: (Plane(channels=4),),
    _F.B8G8R8A8: (Plane(channels=4),),
    _F.B8G8R8X8: (Plane(channels=4),),
    _F.I420: (Plane(), _CHROMA, _CHROMA),
    _F.YV12: (Plane(), _CHROMA, _CHROMA),
    _F.NV12: (Plane(), Plane(channels=2, across=2, rows_of_two=1)),
    _F.P010: (Plane("=u2"), Plane("=u2", channels=2, across=2, rows_of_two=1)),
    _F.M420: (Plane(rows_of_two=3),),
    _F.YUY2: (Plane(channels=4, across=2),),
    _F.B8G8R8: (Plane(channels=3),),
    _F.R8G8B8: (Plane(channels=3),),
    _F.R8G8: (Plane(channels=2),),
    _F.R5G6B5: (Plane("<u2"),),
    _F.A2R10G10B10: (Plane("<u4"),),
    _F.A2B10G10R10: (Plane("<u4"),),
    _F.R3G3B2: (Plane(),),
    _F.R2G2B2X2: (Plane(),),
    _F.L8: (Plane(),),
    _F.R8: (Plane(),),
}


def resolve(image_format: ImageFormat | ImageFormatConstraints, size: SizeU | None) -> ImageFormat:
    """The image to look at: as given, or of this size under the negotiated constraints.

    Raises `ValueError` when the constraints have no such image, the format isn't addressed in rows, or no image of the
    format can have this size or these rows; `TypeError` for another kind of object.
    """
    if not isinstance(image_format, ImageFormat | ImageFormatConstraints):
        raise TypeError(
            f"expected an ImageFormat or ImageFormatConstraints, not {type(image_format).__name__}"
        )
    if not isinstance(size, SizeU | None):
        raise TypeError(f"expected a SizeU, not {type(size).__name__}")
    if isinstance(image_format, ImageFormatConstraints):
        image = ImageFormat.of(image_format, size)
    elif size is not None and size != image_format.size:
        raise ValueError(f"the image format has the size {image_format.size}, not {size}")
    else:
        image = image_format
    if image.pixel_format not in PLANES or image.pixel_format_modifier not in (
        LINEAR,
        ARM_LINEAR_TE,
    ):
        raise ValueError(
            f"{format_name(image.pixel_format)} {modifier_name(image.pixel_format_modifier)} has no planes of rows"
        )
    _check_size(image)
    _check_rows(image)
    return image


def _check_size(image: ImageFormat) -> None:
    """An odd size would leave pixels at the edges without their chroma."""
    if not isinstance(image.size, SizeU):
        raise TypeError(f"the image's size must be a SizeU, not {type(image.size).__name__}")
    width, height = image.size.width, image.size.height
    divisor = traits(image.pixel_format, image.pixel_format_modifier).divisor
    if width <= 0 or height <= 0 or width % divisor or height % divisor:
        multiples = f"multiples of {divisor}" if divisor > 1 else "at least 1"
        raise ValueError(
            f"no {format_name(image.pixel_format)} image has {width} × {height} pixels:"
            f" width and height must be {multiples}{' and not 0' if divisor > 1 else ''}"
        )


def _check_rows(image: ImageFormat) -> None:
    """Rows that are too short would overlap."""
    row = image.bytes_per_row
    if not isinstance(row, int):
        raise TypeError(f"the image's bytes_per_row must be an int, not {type(row).__name__}")
    of = traits(image.pixel_format, image.pixel_format_modifier)
    least = round_up(image.size.width * of.stride_bytes, of.sample_alignment)
    if row < least:
        raise ValueError(
            f"{image.size.width} pixels of {format_name(image.pixel_format)} take"
            f" {least} bytes per row or more, not {row}"
        )
    if row % of.sample_alignment:
        raise ValueError(
            f"bytes per row of {format_name(image.pixel_format)} must be a multiple of"
            f" {of.sample_alignment}, not {row}: the next is {round_up(row, of.sample_alignment)}"
        )


def arrays(
    fd: int, start: int, end: int, image: ImageFormat, *, writable: bool
) -> list[NDArray[Any]]:
    """One array per plane over bytes `start` to `end` of a VMO, which stays mapped as long as any of them lives.

    Raises `ValueError` when the image doesn't fit.
    """
    numpy = _numpy()
    size = image.byte_size()
    if size is None or size > end - start:
        raise ValueError(f"an image of {size} bytes doesn't fit the {end - start} of the buffer")
    access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
    mapped = mmap.mmap(fd, end, access=access)
    found = []
    for index, plane in enumerate(PLANES[image.pixel_format]):
        offset = image.plane_byte_offset(index)
        row = image.plane_row_bytes(index)
        assert offset is not None, "every plane of the table is one of the arithmetic"
        assert row is not None
        dtype = numpy.dtype(plane.dtype)
        shape: tuple[int, ...] = (
            image.size.height * plane.rows_of_two // 2,
            image.size.width // plane.across,
        )
        strides: tuple[int, ...] = (row, dtype.itemsize * max(plane.channels, 1))
        if plane.channels:
            shape = (*shape, plane.channels)
            strides = (*strides, dtype.itemsize)
        found.append(numpy.ndarray(shape, dtype, mapped, start + offset, strides))
    return found


def _numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise ImportError("planes() needs numpy: pip install 'sysmem[numpy]'") from error
    return numpy
