"""What a camera needs of buffers, from what its driver says."""

from __future__ import annotations

from v4l2 import Camera, CameraError, Format

import sysmem
from sysmem import ColorSpace, PixelFormat, formats

#: Buffers that the driver has, so that it always has one to fill: one being filled, one waiting, one being taken out.
BUFFERS = 3


def constraints(camera: Camera, width: int, height: int) -> sysmem.BufferCollectionConstraints:
    """Return the camera's constraints: an image entry for each format that both it and sysmem know.

    Raises:
        CameraError: There is none.
    """
    entries, largest, unknown = [], 0, []
    for fourcc in dict.fromkeys(camera.fourccs()):
        try:
            pixel_format, _ = formats.from_v4l2(fourcc)
        except ValueError:
            unknown.append(fourcc.to_bytes(4, "little").decode(errors="replace"))
            continue
        offered = camera.format(fourcc, width, height)
        if offered.pieces != 1:  # a negotiated buffer is one piece of memory
            unknown.append(f"{pixel_format.name} in {offered.pieces} pieces")
            continue
        entries.append(_entry(camera, pixel_format, offered))
        largest = max(largest, offered.size_bytes)
    if not entries:
        raise CameraError(
            f"{camera.name} has only formats that can't be used here: {', '.join(unknown)}"
        )
    return sysmem.BufferCollectionConstraints(
        usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.WRITE_OFTEN, video=sysmem.VideoUsage.CAPTURE),
        min_buffer_count_for_camping=BUFFERS,
        # A driver may want more than the image takes.
        buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=largest),
        image_format_constraints=entries,
    )


def _entry(
    camera: Camera, pixel_format: PixelFormat, offered: Format
) -> sysmem.ImageFormatConstraints:
    size = sysmem.SizeU(offered.width, offered.height)
    # Many drivers have one length of rows; those that take longer ones say so when they are asked.
    longer = offered.bytes_per_row + 256
    asked = camera.format(offered.fourcc, size.width, size.height, longer)
    fixed = asked.bytes_per_row != longer or asked.width != size.width
    return sysmem.ImageFormatConstraints(
        pixel_format=pixel_format,
        color_spaces=[color_space(pixel_format, offered)],
        min_size=size,
        max_size=size,
        min_bytes_per_row=offered.bytes_per_row,
        max_bytes_per_row=offered.bytes_per_row if fixed else None,
    )


def color_space(pixel_format: PixelFormat, offered: Format) -> ColorSpace:
    """Return the colour space of a format; of Y, Cb and Cr, about which drivers often say nothing, the usual one."""
    # These come from the negotiation's own facts: which colour spaces a format can have.
    from sysmem_protocol.formats import supports_color_space

    said = formats.color_space_from_v4l2(
        offered.colorspace, offered.quantization, offered.xfer_func
    )
    usual = ColorSpace.REC709 if offered.height >= 720 else ColorSpace.REC601_NTSC
    return next(
        space
        for space in (said, ColorSpace.SRGB, usual)
        if space is not None and supports_color_space(pixel_format, space)
    )


def configure(camera: Camera, image: sysmem.ImageFormat) -> Format:
    """Set what was negotiated on the driver.

    Raises:
        CameraError: It doesn't take it, though it said so before.
    """
    fourcc = image.pixel_format.v4l2_fourcc
    assert fourcc is not None, "only formats that V4L2 knows were offered"
    width, height = image.size.width, image.size.height
    taken = camera.format(fourcc, width, height, image.bytes_per_row, keep=True)
    found = (taken.fourcc, taken.width, taken.height, taken.bytes_per_row)
    if found != (fourcc, width, height, image.bytes_per_row):
        raise CameraError(f"{camera.name} was set to {image}, and takes {taken}")
    return taken
