"""One image in a buffer, and the reasons why constraints do not allow an image of a given size.

The rules are those of `docs/spec/image-formats.md`, sections 1.2 and 2.7.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from .docstrings import documented
from .formats import Family, is_supported, modifier_name, pair_name, traits
from .images2 import ColorSpace, PixelFormat, PixelFormatModifier
from .library import Enumeration, plain_int
from .sizes import (
    U32_MAX,
    U64_MAX,
    image_size,
    minimum_row_bytes,
    pair,
    plane_byte_offset,
    plane_row_bytes,
    round_down,
    round_up,
)
from .sysmem2 import ImageFormatConstraints, SizeU

#: The default of `bytes_per_row`: rows without padding, whatever the format and the size.
_UNPADDED: Any = None
#: The default of `display_rect`: the whole image, whatever its size.
_WHOLE: Any = None
_ENUMS = {
    "pixel_format": Enumeration(PixelFormat),
    "pixel_format_modifier": Enumeration(PixelFormatModifier, 64),
    "color_space": Enumeration(ColorSpace),
}


class RectU(NamedTuple):
    """A part of an image, in pixels."""

    x: int
    """The column of its first pixel, from 0."""
    y: int
    """The row of its first pixel, from 0."""
    width: int
    """The number of columns."""
    height: int
    """The number of rows."""


@documented
@dataclass(frozen=True, slots=True, repr=False)
class ImageFormat:
    """One image in a buffer: its format, size and layout.

    Participants that use the image of the settings (`BufferCollectionInfo.image`) need no message to agree on it,
    because all have the same settings. For an image of another size, they must send each other the size.
    """

    pixel_format: PixelFormat
    """The pixel format."""
    size: SizeU
    """Width and height in pixels, of the whole stored image."""
    bytes_per_row: int = _UNPADDED
    """The distance from one row of the first plane to the next, in bytes. By default the rows have no padding."""
    pixel_format_modifier: PixelFormatModifier | int = PixelFormatModifier.LINEAR
    """The layout of the pixels in memory. A layout without a name is a plain number."""
    color_space: ColorSpace = ColorSpace.PASSTHROUGH
    """The colour space of the pixels. By default the participants know it from elsewhere."""
    display_rect: tuple[int, int, int, int] = _WHOLE
    """The visible part: x and y of its first pixel, width and height, in pixels. By default the whole image. It becomes
    a :class:`RectU`."""

    def __post_init__(self) -> None:
        if not isinstance(self.size, SizeU):
            raise TypeError(f"size must be a SizeU, not {type(self.size).__name__}")
        whole = (0, 0, self.size.width, self.size.height)
        given = whole if self.display_rect is None else self.display_rect
        try:
            rect = RectU(*given)
        except TypeError:
            raise TypeError(
                f"display_rect must be (x, y, width, height), not {given!r:.80}"
            ) from None
        self._set("display_rect", RectU(*(_number("display_rect", number) for number in rect)))
        for name, wire in _ENUMS.items():
            [member] = wire.parts(_number(name, getattr(self, name), wire.type))
            if type(member) is int and name != "pixel_format_modifier":
                raise ValueError(f"{name}: {member} is not a number of a {wire.type.__name__}")
            self._set(name, member)
        row: int | None = self.bytes_per_row
        if row is None:
            of = traits(self.pixel_format, self.pixel_format_modifier)
            row = of.stride_bytes * self.size.width
        self._set("bytes_per_row", _number("bytes_per_row", row))

    def _set(self, name: str, value: object) -> None:
        object.__setattr__(self, name, value)

    @classmethod
    def of(cls, constraints: ImageFormatConstraints, size: SizeU | None = None) -> ImageFormat:
        """Return the image of a given size that constraints allow, with the minimum bytes per row.

        Args:
            constraints: Usually the negotiated ones: `info.settings.image_format_constraints`.
            size: The size in pixels; by default the minimum that is allowed.

        Raises:
            ValueError: The constraints allow no such image. The message has the reason.
        """
        if not isinstance(constraints, ImageFormatConstraints):
            raise TypeError(
                "expected an ImageFormat or ImageFormatConstraints,"
                f" not {type(constraints).__name__}"
            )
        if size is None:
            size = smallest_size(constraints)
        if not isinstance(size, SizeU):
            raise TypeError(f"expected a SizeU, not {type(size).__name__}")
        refused = "; ".join(refusals(constraints, size))
        if refused:
            raise ValueError(refused)
        image = constraints_to_format(constraints, size.width, size.height)
        assert image is not None, "an image that is not refused is allowed"
        return image

    def plane_byte_offset(self, plane: int) -> int | None:
        """Return where a plane begins, in bytes from the image's start; None if there is no such plane (2.4)."""
        return plane_byte_offset(*self._layout(), plane)

    def plane_row_bytes(self, plane: int) -> int | None:
        """Return the distance from one row of a plane to the next, in bytes; None if there is no such plane (2.5)."""
        return plane_row_bytes(*self._layout(), plane)

    def byte_size(self) -> int | None:
        """Return the bytes of the image with all its planes; None if the format is not supported (2.3)."""
        return image_size(*self._layout())

    def _layout(self) -> tuple[int, int, int, int, int]:
        """Return the arguments for the arithmetic."""
        return (
            self.pixel_format,
            self.pixel_format_modifier,
            self.size.width,
            self.size.height,
            self.bytes_per_row,
        )

    def __repr__(self) -> str:
        enums = {name: kind.written(getattr(self, name)) for name, kind in _ENUMS.items()}
        names = self.__slots__
        shown = (f"{name}={enums.get(name) or repr(getattr(self, name))}" for name in names)
        return f"{type(self).__name__}({', '.join(shown)})"


def _number(name: str, value: object, kind: type[enum.Enum] | None = None) -> int:
    """Return the number of a field. Members of other enums are refused, because they mean something else."""
    number = plain_int(value)
    if not isinstance(number, int) or type(number) not in (int, kind):
        expected = "an int" if kind is None else f"a {kind.__name__}"
        raise TypeError(f"{name} must be {expected}, not {type(value).__name__}")
    return number


def constraints_to_format(
    constraints: ImageFormatConstraints, width: int, height: int
) -> ImageFormat | None:
    """Return the image of this size that constraints allow, with the minimum bytes per row (2.7), or None."""
    low = constraints.min_size or SizeU(0, 0)
    high = constraints.max_size or SizeU(U32_MAX, U32_MAX)
    align = constraints.size_alignment or SizeU(1, 1)
    if not (low.width <= width <= high.width and low.height <= height <= high.height):
        return None
    if align.width == 0 or align.height == 0 or width % align.width or height % align.height:
        return None
    row = minimum_row_bytes(constraints, width)
    pixel_format, modifier = pair(constraints)
    if row is None or pixel_format is None:
        return None
    spaces = constraints.color_spaces
    return ImageFormat(
        pixel_format=PixelFormat(pixel_format),
        pixel_format_modifier=modifier,
        size=SizeU(width, height),
        bytes_per_row=row,
        color_space=ColorSpace(spaces[0]) if spaces else ColorSpace.PASSTHROUGH,
    )


# --- reasons ------------------------------------------------------------------------------------------------------


def smallest_size(constraints: ImageFormatConstraints) -> SizeU:
    """Return the minimum size that constraints allow. Raises `ValueError` if they have none."""
    least = constraints.min_size or SizeU(0, 0)
    multiple = constraints.size_alignment or SizeU(1, 1)
    size = SizeU(round_up(least.width, multiple.width), round_up(least.height, multiple.height))
    if not size.width or not size.height:
        raise ValueError("the constraints have no min_size: pass the size of the image")
    return size


def refusals(constraints: ImageFormatConstraints, size: SizeU) -> Iterator[str]:
    """Yield the reasons why constraints allow no image of a size: the field, its value, and an allowed value."""
    pixel_format, modifier = pair(constraints)
    if pixel_format is None:
        yield "the constraints have no pixel_format"
        return
    if not is_supported(pixel_format, modifier):
        yield f"{pair_name((pixel_format, modifier))} is not a format of images"
        return
    of = traits(pixel_format, modifier)
    low = constraints.min_size or SizeU(0, 0)
    high = constraints.max_size or SizeU(U32_MAX, U32_MAX)
    align = constraints.size_alignment or SizeU(1, 1)
    wrong = [
        *axis_refusals("width", size.width, of.divisor, low.width, high.width, align.width),
        *axis_refusals("height", size.height, of.divisor, low.height, high.height, align.height),
    ]
    most = constraints.max_width_times_height
    if size.width * size.height > (U64_MAX if most is None else most):
        wrong.append(
            f"width × height must be at most {most} (max_width_times_height),"
            f" not {size.width * size.height}"
        )
    yield from wrong
    if wrong or minimum_row_bytes(constraints, size.width) is not None:
        return
    if of.layout.family is Family.GOLDFISH:
        yield f"{modifier_name(modifier)} does not define the length of a row"
    else:
        most = constraints.max_bytes_per_row
        yield (
            f"a row of {size.width} pixels takes more than"
            f" {U32_MAX if most is None else most} bytes (max_bytes_per_row)"
        )


def axis_refusals(
    axis: str, value: int, divisor: int, low: int = 0, high: int = U32_MAX, align: int = 1
) -> Iterator[str]:
    """Yield the reasons why an image can't have this width or height, from the format and the constraints."""
    multiple = math.lcm(divisor, align)
    if multiple == 0:
        yield f"size_alignment.{axis} is 0"
        return
    least, most = round_up(max(low, 1), multiple), round_down(high, multiple)
    if value < least:
        yield f"{axis} must be at least {least}{' (min_size)' if low else ''}, not {value}"
    elif value > most:
        yield f"{axis} must be at most {most} (max_size), not {value}"
    elif value % multiple:
        near = f"{round_down(value, multiple)} and {round_up(value, multiple)}"
        yield f"{axis} must be a multiple of {multiple}: the next are {near}"
