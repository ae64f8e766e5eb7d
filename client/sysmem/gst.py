"""Buffers in GStreamer pipelines, without a copy; needs the system's PyGObject and GStreamer (`python3-gst-1.0`).

A pipeline that reads from a collection gets its caps from :func:`caps` and its buffers from :func:`wrap`. :func:`fill`
copies the result of a pipeline into a collection's buffer.
"""

from __future__ import annotations

import os
from fractions import Fraction
from typing import Any

from sysmem_protocol.formats import LINEAR, pair_name
from sysmem_protocol.image_format import ImageFormat
from sysmem_protocol.sysmem2 import ImageFormatConstraints, SingleBufferSettings, SizeU

from ._buffers import BufferCollectionInfo, VmoBuffer
from ._planes import PLANES

try:
    import gi

    for _name in ("Gst", "GstAllocators", "GstVideo"):
        gi.require_version(_name, "1.0")
    from gi.repository import Gst, GstAllocators, GstVideo
except (ImportError, ValueError) as _missing:
    raise ImportError(
        "sysmem.gst needs the system's GStreamer for Python: on Debian, apt-get install python3-gst-1.0"
        " gir1.2-gst-plugins-base-1.0, and a virtual environment with --system-site-packages"
    ) from _missing

__all__ = ["Gst", "caps", "fill", "wrap"]

Gst.init(None)
_allocator = GstAllocators.FdAllocator.new()


def caps(
    of: ImageFormat | BufferCollectionInfo | SingleBufferSettings,
    *,
    framerate: Fraction | int = 0,
) -> Any:
    """Return the `Gst.Caps` of images in a collection's buffers.

    Args:
        of: An image, or the settings of a collection, which mean their smallest image.
        framerate: Frames a second; 0 if it varies.

    Raises:
        ValueError: GStreamer has no such format, or not in this layout.
    """
    image = _image(of)
    rate = Fraction(framerate)
    _, _, width, height = image.display_rect
    fields = [
        "video/x-raw",
        f"format={_format(image)}",
        f"width={width}",
        f"height={height}",
        f"framerate={rate.numerator}/{rate.denominator}",
        "pixel-aspect-ratio=1/1",
        "interlace-mode=progressive",
    ]
    if image.color_space.gst_colorimetry is not None:
        fields.append(f"colorimetry={image.color_space.gst_colorimetry}")
    return Gst.Caps.from_string(",".join(fields))


def wrap(
    buffer: VmoBuffer,
    image_format: ImageFormat | ImageFormatConstraints | None = None,
    size: SizeU | None = None,
    *,
    pts: int | None = None,
    duration: int | None = None,
) -> Any:
    """Return a `Gst.Buffer` over the memory of a buffer, with a GstVideoMeta that describes its planes.

    It has its own descriptor, so it may outlive `buffer`, the collection and the daemon. If the rights don't allow
    writing, its memory is read-only, and an element that has to write makes a copy.

    Args:
        buffer: The buffer.
        image_format: The image in it, as for `buffer.planes()`.
        size: As for `buffer.planes()`.
        pts: The frame's presentation time, in nanoseconds.
        duration: How long the frame is shown, in nanoseconds.

    Raises:
        ValueError: As for `buffer.planes()`; or GStreamer has no such format, or not in this layout.
    """
    memory, available, image = buffer._memory_of(image_format, size)
    name = _format(image)
    needed = image.byte_size()
    if needed is None or needed > available:
        raise ValueError(
            f"an image of {needed} bytes does not fit into the buffer's {available} bytes"
        )
    offsets, strides = _planes(image)
    fd = os.dup(memory.fd)
    wrapped = GstAllocators.FdAllocator.alloc(
        _allocator, fd, memory.start + memory.size, GstAllocators.FdMemoryFlags.NONE
    )
    if wrapped is None:
        os.close(fd)
        raise MemoryError("GStreamer did not accept the buffer's descriptor")
    wrapped.resize(memory.start, needed)
    if not memory.writable:
        wrapped.mini_object.flags |= int(Gst.MiniObjectFlags.LOCK_READONLY)
    made = Gst.Buffer.new()
    made.append_memory(wrapped)
    _, _, width, height = image.display_rect
    GstVideo.buffer_add_video_meta_full(
        made,
        GstVideo.VideoFrameFlags.NONE,
        GstVideo.VideoFormat.from_string(name),
        width,
        height,
        len(strides),
        offsets + [0] * (4 - len(offsets)),
        strides + [0] * (4 - len(strides)),
    )
    if pts is not None:
        made.pts = pts
    if duration is not None:
        made.duration = duration
    return made


def fill(
    buffer: VmoBuffer,
    sample: Any,
    image_format: ImageFormat | ImageFormatConstraints | None = None,
    size: SizeU | None = None,
) -> None:
    """Copy the image of a `Gst.Sample`, for example from an appsink, into a buffer.

    Args:
        buffer: The buffer to write into.
        sample: An image with the buffer's format and size. `caps(info)` before the appsink takes care of that.
        image_format: The image that the buffer then holds, as for `buffer.planes()`.
        size: As for `buffer.planes()`.

    Raises:
        ValueError: As for `buffer.planes()`; or the sample has another format or size, or the rights do not allow
            writing.
    """
    import numpy as np

    memory, _, image = buffer._memory_of(image_format, size)
    if not memory.writable:
        raise ValueError("the rights do not allow writing to this buffer")
    info = GstVideo.VideoInfo.new_from_caps(sample.get_caps())
    if info is None:
        raise ValueError(f"these are not caps of video: {sample.get_caps().to_string()}")
    _, _, width, height = image.display_rect
    found = (info.finfo.name, info.width, info.height)
    if found != (_format(image), width, height):
        raise ValueError(
            f"the sample is {found[0]} with {found[1]} × {found[2]} pixels, the buffer"
            f" {_format(image)} with {width} × {height}: put caps(info) before the appsink"
        )
    ours = buffer.planes(image)
    content = sample.get_buffer()
    meta = GstVideo.buffer_get_video_meta(content)
    offsets, strides = (meta.offset, meta.stride) if meta else (info.offset, info.stride)
    readable, mapped = content.map(Gst.MapFlags.READ)
    if not readable:
        raise ValueError("the sample's memory could not be mapped")
    try:
        for number, plane in enumerate(ours):
            layout = (strides[number], *plane.strides[1:])
            plane[:] = np.ndarray(plane.shape, plane.dtype, mapped.data, offsets[number], layout)
    finally:
        content.unmap(mapped)


def _image(of: ImageFormat | BufferCollectionInfo | SingleBufferSettings) -> ImageFormat:
    if isinstance(of, ImageFormat):
        return of
    settings = of.settings if isinstance(of, BufferCollectionInfo) else of
    if settings.image_format_constraints is None:
        raise ValueError("the buffers are raw: no participant asked for an image format")
    return ImageFormat.of(settings.image_format_constraints)


def _format(image: ImageFormat) -> str:
    name: str | None = image.pixel_format.gst_format
    if name is None or image.pixel_format_modifier != LINEAR:
        pair = (image.pixel_format, image.pixel_format_modifier)
        raise ValueError(f"GStreamer has no format like {pair_name(pair)}")
    return name


def _planes(image: ImageFormat) -> tuple[list[int], list[int]]:
    """Return the offsets of the planes of the visible part, from the image's start, and their bytes per row."""
    x, y, _, _ = image.display_rect
    offsets, strides = [], []
    for index, plane in enumerate(PLANES[image.pixel_format]):
        offset, row = image.plane_byte_offset(index), image.plane_row_bytes(index)
        assert offset is not None, (
            "the plane has an offset, because the image format has this plane"
        )
        assert row is not None
        place = int(plane.dtype[-1]) * max(plane.channels, 1)
        offsets.append(offset + y * plane.rows_of_two // 2 * row + x // plane.across * place)
        strides.append(row)
    return offsets, strides
