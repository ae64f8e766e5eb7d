"""The constraints of a camera, derived from the formats of its driver."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import NamedTuple

from v4l2 import Camera, CameraError, Format

import sysmem
from sysmem import ColorSpace, ImageFormat, PixelFormat, formats

#: The driver always needs a buffer to fill: one is being filled, one waits to be filled, one is being dequeued.
BUFFERS = 3
#: Formats with separate memory for each plane, and the format that has the same planes in one piece of memory.
IN_PIECES = {"NM12": PixelFormat.NV12, "YM12": PixelFormat.I420, "YM21": PixelFormat.YV12}


class Decoder(NamedTuple):
    """How FFmpeg reads a format that sysmem doesn't have."""

    codec: str
    #: FFmpeg's pixel format of uncompressed frames, and the bytes of each row for one pixel.
    pixel_format: str | None = None
    pixel_bytes: int = 0


DECODERS = {
    "MJPG": Decoder("mjpeg"),
    "JPEG": Decoder("mjpeg"),
    "UYVY": Decoder("rawvideo", "uyvy422", 2),
    "YVYU": Decoder("rawvideo", "yvyu422", 2),
    "NV21": Decoder("rawvideo", "nv21", 1),
    "NV16": Decoder("rawvideo", "nv16", 1),
}
_YUV = [ColorSpace.REC601_NTSC_FULL_RANGE, ColorSpace.REC601_NTSC, ColorSpace.REC709]
#: The formats and colour spaces into which frames can be decoded. The other participants choose.
DECODED = {
    PixelFormat.NV12: _YUV,
    PixelFormat.I420: _YUV,
    PixelFormat.B8G8R8A8: [ColorSpace.SRGB],
    PixelFormat.R8G8B8A8: [ColorSpace.SRGB],
}


@dataclass(frozen=True)
class Offer:
    """A format of the driver, and the pixel format of the images that are made from it."""

    format: Format
    pixel_format: PixelFormat

    @property
    def decoder(self) -> Decoder | None:
        """The decoder for the driver's format, or None if the driver writes images of the pixel format itself."""
        return DECODERS.get(self.format.name)


def offers(
    camera: Camera, width: int, height: int, only: str | None = None
) -> dict[PixelFormat, Offer]:
    """Return the driver's formats in the size that is nearest to the wanted one.

    Formats that must be decoded are left out if the driver has others of this size.

    Args:
        camera: The camera.
        width: The wanted width, in pixels.
        height: The wanted height, in pixels.
        only: The four characters of the only format that may be used.

    Raises:
        CameraError: The camera has no such format.
    """
    found, names = [], []
    for fourcc in dict.fromkeys(camera.fourccs()):
        offered = camera.format(fourcc, width, height)
        names.append(offered.name)
        if only in (None, offered.name):
            found += [Offer(offered, pixel_format) for pixel_format in _made_of(offered)]
    if not found:
        raise CameraError(
            f"{camera.name} offers {', '.join(names) or 'no format'};"
            f" {only or 'none of these'} can't be used here"
        )

    def rank(offer: Offer) -> tuple[int, bool]:
        far = abs(offer.format.width - width) + abs(offer.format.height - height)
        return far, offer.decoder is not None

    best = min(map(rank, found))
    best_ones = [offer for offer in found if rank(offer) == best]
    # If several formats make the same images, the last one stays: the one with the fewest pieces of memory.
    best_ones.sort(key=lambda offer: -len(offer.format.pieces))
    return {offer.pixel_format: offer for offer in best_ones}


def _made_of(offered: Format) -> list[PixelFormat]:
    """Return the pixel formats of the images that can be made from a driver's format."""
    if offered.name in IN_PIECES:
        return [IN_PIECES[offered.name]]
    if offered.name in DECODERS:
        return list(DECODED)
    try:
        return [formats.from_v4l2(offered.fourcc)[0]]
    except ValueError:
        return []


def constraints(
    camera: Camera, offered: dict[PixelFormat, Offer]
) -> sysmem.BufferCollectionConstraints:
    """Return the camera's constraints: an image entry for each pixel format that it can make."""
    return sysmem.BufferCollectionConstraints(
        usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.WRITE_OFTEN, video=sysmem.VideoUsage.CAPTURE),
        min_buffer_count_for_camping=BUFFERS,
        # A driver may want more memory than the image takes.
        buffer_memory_constraints=sysmem.BufferMemoryConstraints(
            min_size_bytes=max(0 if o.decoder else o.format.size_bytes for o in offered.values())
        ),
        image_format_constraints=[_entry(camera, offer) for offer in offered.values()],
    )


def _entry(camera: Camera, offer: Offer) -> sysmem.ImageFormatConstraints:
    offered = offer.format
    size = sysmem.SizeU(offered.width, offered.height)
    entry = sysmem.ImageFormatConstraints(
        pixel_format=offer.pixel_format, min_size=size, max_size=size
    )
    if offer.decoder:
        entry.color_spaces = list(DECODED[offer.pixel_format])
        return entry
    entry.color_spaces = [color_space(offer.pixel_format, offered)]
    entry.min_bytes_per_row = row = offered.rows[0]
    divisor = _page_divisor(offer.pixel_format, size) if len(offered.pieces) > 1 else 1
    whole_pages = -(-row // divisor) * divisor
    if _takes(camera, offer, whole_pages):
        entry.bytes_per_row_divisor = divisor
    # Many drivers support only one length of rows. The others accept a longer row when they are asked.
    if not _takes(camera, offer, row + 256):
        entry.max_bytes_per_row = row
    return entry


def _page_divisor(pixel_format: PixelFormat, size: sysmem.SizeU) -> int:
    """Return a divisor of the bytes per row that makes each plane begin at a page, so that it can be a dma-buf."""
    divisor = 1
    while any(
        offset % mmap.PAGESIZE for offset in plane_offsets(ImageFormat(pixel_format, size, divisor))
    ):
        divisor *= 2
    return divisor


def _takes(camera: Camera, offer: Offer, bytes_per_row: int) -> bool:
    """Return whether the driver can write rows of this length."""
    size = sysmem.SizeU(offer.format.width, offer.format.height)
    rows = _rows(offer, ImageFormat(offer.pixel_format, size, bytes_per_row))
    taken = camera.format(offer.format.fourcc, size.width, size.height, rows)
    return taken.rows == rows and (taken.width, taken.height) == (size.width, size.height)


def _rows(offer: Offer, image: ImageFormat) -> list[int]:
    """Return the bytes per row of each piece of the driver's memory."""
    return [image.plane_row_bytes(plane) or 0 for plane in range(len(offer.format.pieces))]


def plane_offsets(image: ImageFormat) -> list[int]:
    """Return where each plane of an image begins, in bytes."""
    offsets = (image.plane_byte_offset(plane) for plane in range(4))
    return [offset for offset in offsets if offset is not None]


def color_space(pixel_format: PixelFormat, offered: Format) -> ColorSpace:
    """Return the colour space of a format: the driver's, or the usual one if the driver does not name one."""
    # The negotiation uses this table of the colour spaces that a format can have.
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


def configure(camera: Camera, offered: dict[PixelFormat, Offer], image: ImageFormat) -> Offer:
    """Set the driver to the negotiated image format, and return the driver's format for it.

    Raises:
        CameraError: The driver does not accept the format, although it accepted it before.
    """
    offer = offered[image.pixel_format]
    asked = offer.format
    rows = asked.rows if offer.decoder else _rows(offer, image)
    taken = camera.format(asked.fourcc, asked.width, asked.height, rows, keep=True)
    found = (taken.fourcc, taken.width, taken.height, taken.rows)
    if found != (asked.fourcc, image.size.width, image.size.height, rows):
        raise CameraError(f"{camera.name} was set to {image}, and takes {taken}")
    return Offer(taken, image.pixel_format)
