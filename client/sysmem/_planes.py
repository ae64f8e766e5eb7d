"""A buffer, and the planes of an image in it, as numpy arrays without a copy; needs the extra `sysmem[numpy]`.

The layout of each linear format is in `docs/spec/image-formats.md`, section 1.1; the offsets of its planes come
from :mod:`sysmem_protocol.sizes`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

from sysmem_protocol.formats import ARM_LINEAR_TE, LINEAR, pair_name, traits
from sysmem_protocol.image_format import ImageFormat, axis_refusals
from sysmem_protocol.images2 import PixelFormat
from sysmem_protocol.sizes import round_up

from ._memory import Memory

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray


class Plane(NamedTuple):
    """How the samples of one plane lie."""

    #: numpy's name of a sample's type.
    dtype: str = "u1"
    #: The number of samples at each place, which is the array's last axis. 0 means one sample, and no axis for it.
    channels: int = 0
    #: How many pixels of a row one place covers.
    across: int = 1
    #: Rows for each two rows of the image.
    rows_of_two: int = 2

    @property
    def steps(self) -> tuple[int, int]:
        """How many columns and rows of pixels share a sample. A part of the image must begin at a multiple of these."""
        rows = 1 if self.rows_of_two == 2 else 2
        # In M420 rows of luma and chroma alternate; its chroma samples are as wide as those of NV12.
        return (2 if self.rows_of_two == 3 else self.across), rows


_CHROMA = Plane(across=2, rows_of_two=1)
_F = PixelFormat

#: The planes of every linear format. Samples of P010 are in the host's byte order, all others are little-endian.
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


# --- planes -------------------------------------------------------------------------------------------------------


def planes(memory: Memory, size: int, image: ImageFormat) -> list[NDArray[Any]]:
    """Return an array for each plane of the visible part of an image, which has `size` bytes. They keep it mapped.

    Raises:
        ValueError: The format isn't in rows, no image of it can have this size, these rows or this visible part, or the
            image doesn't fit the memory.
        ImportError: numpy isn't installed.
    """
    numpy = _numpy()
    refused = "; ".join(_refusals(image))
    if refused:
        raise ValueError(refused)
    needed = image.byte_size()
    if needed is None or needed > size:
        raise ValueError(f"an image of {needed} bytes doesn't fit the {size} of the buffer")
    mapped = memory.map()
    x, y, width, height = image.display_rect
    found = []
    for index, plane in enumerate(PLANES[image.pixel_format]):
        offset = image.plane_byte_offset(index)
        row = image.plane_row_bytes(index)
        assert offset is not None, "every plane of the table is one of the arithmetic"
        assert row is not None
        dtype = numpy.dtype(plane.dtype)
        place = dtype.itemsize * max(plane.channels, 1)
        # If the number of pixels is odd, a last chroma sample covers the last pixel.
        shape = [-(-height * plane.rows_of_two // 2), -(-width // plane.across)]
        strides = [row, place]
        if plane.channels:
            shape.append(plane.channels)
            strides.append(dtype.itemsize)
        begin = offset + y * plane.rows_of_two // 2 * row + x // plane.across * place
        found.append(numpy.ndarray(shape, dtype, mapped, memory.start + begin, strides))
    return found


def _refusals(image: ImageFormat) -> Iterator[str]:
    """Yield the reasons why an image has no planes."""
    pair = (image.pixel_format, image.pixel_format_modifier)
    if pair[0] not in PLANES or pair[1] not in (LINEAR, ARM_LINEAR_TE):
        yield f"{pair_name(pair)} has no planes of rows"
        return
    name, width, height = pair[0].name, image.size.width, image.size.height
    of = traits(*pair)
    wrong = [
        *axis_refusals("width", width, of.divisor),
        *axis_refusals("height", height, of.divisor),
        *_rect_refusals(image),
    ]
    yield from (f"{name}: {reason}" for reason in wrong)
    row = image.bytes_per_row
    least = round_up(width * of.stride_bytes, of.sample_alignment)
    if row < least:
        yield f"{width} pixels of {name} take {least} bytes per row or more, not {row}"
    elif row % of.sample_alignment:
        yield (
            f"bytes per row of {name} must be a multiple of {of.sample_alignment}, not {row}:"
            f" the next is {round_up(row, of.sample_alignment)}"
        )


def _rect_refusals(image: ImageFormat) -> Iterator[str]:
    """Why a part of an image isn't one, or has no planes of its own."""
    x, y, width, height = rect = tuple(image.display_rect)
    if min(x, y) < 0 or min(width, height) < 1:
        yield f"display_rect {rect} is empty or begins outside of the image"
    elif x + width > image.size.width or y + height > image.size.height:
        yield (f"display_rect {rect} isn't within {image.size.width} × {image.size.height} pixels")
    layout = PLANES[image.pixel_format]
    across, down = (max(steps) for steps in zip(*(p.steps for p in layout), strict=True))
    numbers = {"x": (x, across), "y": (y, down)}
    if len(layout) == 1:  # the luma itself would have more pixels than were asked for
        numbers |= {"width": (width, across), "height": (height, down)}
    for field, (number, step) in numbers.items():
        if number % step:
            yield (
                f"{field} of display_rect must be a multiple of {step}, not {number}:"
                f" {step} pixels share a sample"
            )


# --- any array ----------------------------------------------------------------------------------------------------


def array(
    memory: Memory,
    size: int,
    dtype: DTypeLike,
    shape: SupportsIndex | Sequence[SupportsIndex] | None,
    offset: SupportsIndex,
) -> NDArray[Any]:
    """Return an array over the memory from byte `offset` on. By default it has all elements that fit `size` bytes.

    Raises:
        TypeError: The elements aren't plain data.
        ValueError: The array doesn't fit the memory.
        ImportError: numpy isn't installed.
    """
    numpy = _numpy()
    element, begin = numpy.dtype(dtype), operator.index(offset)
    if element.hasobject or not element.itemsize:
        raise TypeError(f"elements of type {element} aren't plain data that can be shared")
    if begin < 0:
        raise ValueError(f"offset must be at least 0, not {begin}")
    if shape is None:
        shape = (max(size - begin, 0) // element.itemsize,)
    lengths = [operator.index(n) for n in (shape if isinstance(shape, Sequence) else (shape,))]
    if min(lengths, default=0) < 0:
        raise ValueError(f"no length may be negative: {tuple(lengths)}")
    needed = begin + math.prod(lengths) * element.itemsize
    if needed > memory.size:
        raise ValueError(
            f"{tuple(lengths)} elements of type {element} from byte {begin} take {needed} bytes;"
            f" the buffer has {memory.size}"
        )
    made: NDArray[Any] = numpy.ndarray(lengths, element, memory.map(), memory.start + begin)
    return made


def _numpy() -> Any:
    try:
        import numpy
    except ImportError as error:
        raise ImportError("arrays need numpy: pip install 'sysmem[numpy]'") from error
    return numpy
