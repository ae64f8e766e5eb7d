"""What PyAV's codecs need of buffers; needs the extra `sysmem[av]`.

Frames themselves are methods of a buffer: `buffer.video_frame(pts=…)` for encoders, `buffer.fill_from(frame)` for what
decoders and cameras give.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sysmem_protocol.images2 import ColorSpace, PixelFormatModifier
from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferUsage,
    CpuUsage,
    ImageFormatConstraints,
    SizeU,
)

from ._pyav import color_space
from .formats import from_ffmpeg

if TYPE_CHECKING:
    from av import VideoCodecContext

__all__ = ["constraints"]

#: Bytes at which FFmpeg likes rows to begin: its vector instructions read as many at once.
ROW_ALIGNMENT = 64
#: Old names for formats with full range, which the context's colour range says as well.
_FULL_RANGE = {"yuvj420p": "yuv420p"}


def constraints(context: VideoCodecContext, *, hold: int = 2) -> BufferCollectionConstraints:
    """Return the constraints of a participant that encodes or decodes with a codec context.

    The images have the context's pixel format and size. An encoder reads buffers, a decoder writes them with
    `fill_from()`, so it offers its own format only because that needs no conversion: other formats can be added to
    `image_format_constraints` of the result.

    Args:
        context: A `VideoCodecContext` whose width, height and pixel format are known.
        hold: How many buffers it uses at once.

    Raises:
        ValueError: The size or the format isn't known yet, or there is no such pixel format here.
    """
    if not context.width or not context.height or not context.pix_fmt:
        raise ValueError(
            "the codec context doesn't know its images yet: set width, height and pix_fmt,"
            " or decode a frame first"
        )
    pixel_format, _ = from_ffmpeg(_FULL_RANGE.get(context.pix_fmt, context.pix_fmt))
    size = SizeU(context.width, context.height)
    space = color_space(context)
    return BufferCollectionConstraints(
        usage=BufferUsage(cpu=CpuUsage.READ_OFTEN if context.is_encoder else CpuUsage.WRITE_OFTEN),
        min_buffer_count_for_camping=hold,
        image_format_constraints=[
            ImageFormatConstraints(
                pixel_format=pixel_format,
                pixel_format_modifier=PixelFormatModifier.LINEAR,
                # A context that says nothing about colours takes them as the others have them.
                color_spaces=[ColorSpace.DO_NOT_CARE if space is None else space],
                min_size=size,
                max_size=size,
                bytes_per_row_divisor=ROW_ALIGNMENT,
            )
        ],
    )
