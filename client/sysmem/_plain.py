"""Constraints from a short textual description, for the common cases."""

from __future__ import annotations

import difflib
import enum
import re
from collections.abc import Iterable, Sequence
from typing import TypeVar

from sysmem_protocol.formats import PIXELS, is_supported, modifier_name, supports_color_space
from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.sizes import round_up
from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    BufferUsage,
    CpuUsage,
    DisplayUsage,
    Heap,
    ImageFormatConstraints,
    NoneUsage,
    SizeU,
    VideoUsage,
    VulkanUsage,
)

E = TypeVar("E", bound=enum.IntEnum)
F = TypeVar("F", bound=enum.IntFlag)

_PAIR = re.compile(r"(\d+)\s*[x×]\s*(\d+)")
_SIZE = re.compile(
    rf"(?:(?P<exact>{_PAIR.pattern})"
    rf"|(?:from\s+(?P<least>{_PAIR.pattern})\s*)?(?:(?:up\s+)?to\s+(?P<most>{_PAIR.pattern}))?)\Z",
    re.IGNORECASE,
)
_FORMATS = re.compile(r"\s*(?P<formats>\w+(?::\w+)?(?:\s*,\s*\w+(?::\w+)?)*)\s*(?P<size>.*)\Z")


def constraints(
    image: str | None = None,
    *,
    cpu: CpuUsage | str | None = None,
    vulkan: VulkanUsage | str | None = None,
    display: DisplayUsage | str | None = None,
    video: VideoUsage | str | None = None,
    hold: int | None = None,
    slack: int | None = None,
    count: int | None = None,
    max_count: int | None = None,
    align: int | None = None,
    size_align: str | None = None,
    color: ColorSpace | str | Sequence[ColorSpace | str] | None = None,
    size_bytes: int | None = None,
    heap: str | None = None,
    contiguous: bool | None = None,
    secure: bool | None = None,
) -> BufferCollectionConstraints:
    """Return the constraints of a participant from a short description.

    ::

        sysmem.constraints("NV12 1280x720", cpu="write often", hold=2, align=64)
        sysmem.constraints("NV12, B8G8R8A8 up to 1920x1080", display="layer", hold=2)
        sysmem.constraints(cpu="read, write", size_bytes=65536, hold=1)

    The result is an ordinary table. Fields that have no argument here can be set on it afterwards.

    Args:
        image: Pixel formats, separated by commas, and the size in pixels. A format is a name of `PixelFormat`, or
            one with the name of a `PixelFormatModifier` (`B8G8R8A8:INTEL_I915_X_TILED`). The size is exact
            (`1280x720`), or has one or two limits (`from 16x16`, `up to 1920x1080`, `from 16x16 to 1920x1080`);
            without a size any will do. Without `image` the buffers are raw memory.
        cpu: How the CPU uses the buffers: names of flags of `CpuUsage`, separated by commas, as in
            `"read often, write"`; or flags. The same holds for `vulkan`, `display` and `video`. Without any usage
            the participant does not use the buffers itself.
        hold: How many buffers the participant holds at once (`min_buffer_count_for_camping`).
        slack: How many further buffers would help, whichever participant has them
            (`min_buffer_count_for_shared_slack`).
        count: The minimum number of buffers of the collection.
        max_count: The maximum number of buffers of the collection.
        align: The length of each row must be a multiple of this number of bytes (`bytes_per_row_divisor`).
        size_align: Width and height must be multiples of these numbers of pixels, given as `"16x16"`.
        color: The acceptable colour spaces, by member or name. Each format keeps those that it supports.
            By default SRGB, or REC709 for formats that are not RGB.
        size_bytes: The minimum size of a buffer in bytes.
        heap: The type of the heap that the memory must come from, with the id 0.
        contiguous: Whether the memory must be physically contiguous.
        secure: Whether the memory must be secure.

    Raises:
        ValueError: The description is invalid, or no image can match it.
        TypeError: A usage is of another kind of flags.
    """
    usage = BufferUsage(
        cpu=_flags(CpuUsage, "cpu", cpu),
        vulkan=_flags(VulkanUsage, "vulkan", vulkan),
        display=_flags(DisplayUsage, "display", display),
        video=_flags(VideoUsage, "video", video),
    )
    if usage == BufferUsage():
        usage.none = NoneUsage.NONE_USAGE
    memory = BufferMemoryConstraints(
        min_size_bytes=size_bytes,
        physically_contiguous_required=contiguous,
        secure_required=secure,
        permitted_heaps=None if heap is None else [Heap(heap_type=heap, id=0)],
    )
    images = None
    if image is not None:
        images = _images(image, align, size_align, color)
    else:
        for name, value in (("align", align), ("size_align", size_align), ("color", color)):
            if value is not None:
                raise ValueError(f"{name} applies to images, but no pixel format is given")
    return BufferCollectionConstraints(
        usage=usage,
        min_buffer_count_for_camping=hold,
        min_buffer_count_for_shared_slack=slack,
        min_buffer_count=count,
        max_buffer_count=max_count,
        buffer_memory_constraints=None if memory == BufferMemoryConstraints() else memory,
        image_format_constraints=images,
    )


def _images(
    image: str,
    align: int | None,
    size_align: str | None,
    color: ColorSpace | str | Sequence[ColorSpace | str] | None,
) -> list[ImageFormatConstraints]:
    """Return one entry for each format, because formats differ in their colour spaces."""
    parts = _FORMATS.match(image)
    size = _SIZE.match(parts["size"].rstrip()) if parts else None
    if parts is None or size is None:
        raise ValueError(
            f"invalid image {image!r}: expected formats and a size,"
            ' as in "NV12 1280x720" or "NV12, B8G8R8A8 up to 1920x1080"'
        )
    least = _pair("the size", size["exact"] or size["least"])
    most = _pair("the size", size["exact"] or size["most"])
    colors = _colors(color)
    entries = []
    for name in parts["formats"].split(","):
        pixel_format, modifier = _format(name.strip())
        if size["exact"] and least is not None:
            _check_exists(pixel_format, least)
        entries.append(
            ImageFormatConstraints(
                pixel_format=pixel_format,
                pixel_format_modifier=modifier,
                color_spaces=_suitable(pixel_format, colors),
                min_size=least,
                max_size=most,
                size_alignment=_pair("size_align", size_align),
                bytes_per_row_divisor=align,
            )
        )
    return entries


def _format(text: str) -> tuple[PixelFormat, PixelFormatModifier]:
    name, _, layout = text.partition(":")
    pixel_format = _member(PixelFormat, name)
    modifier = _member(PixelFormatModifier, layout or "LINEAR")
    if not is_supported(pixel_format, modifier):
        raise ValueError(f"there are no images of {name} {modifier_name(modifier)}")
    return pixel_format, modifier


def _check_exists(pixel_format: PixelFormat, size: SizeU) -> None:
    divisor = PIXELS[pixel_format].divisor
    if size.width % divisor or size.height % divisor:
        near = f"{round_up(size.width, divisor)}x{round_up(size.height, divisor)}"
        raise ValueError(
            f"no {pixel_format.name} image has {size.width}x{size.height} pixels: width and height"
            f" must be multiples of {divisor}, as in {near}"
        )


def _colors(
    color: ColorSpace | str | Sequence[ColorSpace | str] | None,
) -> list[ColorSpace] | None:
    if color is None:
        return None
    several: Iterable[ColorSpace | str] = [color] if isinstance(color, ColorSpace) else color
    if isinstance(several, str):
        several = several.split(",")
    return [_member(ColorSpace, each) if isinstance(each, str) else each for each in several]


def _suitable(pixel_format: PixelFormat, colors: list[ColorSpace] | None) -> list[ColorSpace]:
    if colors is None:
        colors = [ColorSpace.SRGB, ColorSpace.REC709]
        return [space for space in colors if supports_color_space(pixel_format, space)][:1]
    found = [
        space
        for space in colors
        if space is ColorSpace.DO_NOT_CARE or supports_color_space(pixel_format, space)
    ]
    if not found:
        named = ", ".join(space.name for space in colors)
        known = [space.name for space in ColorSpace if supports_color_space(pixel_format, space)]
        raise ValueError(
            f"{pixel_format.name} can't have the colour space {named}; it can have {', '.join(known)}"
        )
    return found


def _pair(what: str, text: str | None) -> SizeU | None:
    if text is None:
        return None
    found = _PAIR.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{what} must be like 16x16, not {text!r}")
    return SizeU(int(found[1]), int(found[2]))


def _flags(kind: type[F], what: str, given: F | str | None) -> F | None:
    """Return the flags for names. A value that is not text is checked when it is encoded."""
    if not isinstance(given, str):
        return given
    flags = kind(0)
    for name in given.split(","):
        spelled = "_".join(name.upper().split())
        if spelled not in kind.__members__:
            known = ", ".join(each.lower().replace("_", " ") for each in kind.__members__)
            raise ValueError(f"{what}={given!r}: {name.strip()!r} is not one of {known}")
        flags |= kind[spelled]
    return flags


def _member(kind: type[E], name: str) -> E:
    spelled = name.strip().upper()
    if spelled not in kind.__members__:
        near = difflib.get_close_matches(spelled, kind.__members__, n=4, cutoff=0.4)
        hint = f"; similar names: {', '.join(near)}" if near else ""
        raise ValueError(f"{kind.__name__} has no member {name.strip()!r}{hint}")
    return kind[spelled]
