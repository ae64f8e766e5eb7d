"""Constraints for PyAV's codecs; needs the extra `sysmem[av]`.

The frames come from methods of a buffer: `buffer.video_frame(pts=…)` makes a frame for an encoder, and
`buffer.fill_from(frame)` writes a frame of a decoder or camera.
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

#: FFmpeg's vector instructions are fastest if rows begin at multiples of this many bytes.
ROW_ALIGNMENT = 64
#: Old names of formats with full range. The context's colour range also says that it is full.
_FULL_RANGE = {"yuvj420p": "yuv420p"}


def constraints(context: VideoCodecContext, *, hold: int = 2) -> BufferCollectionConstraints:
    """Return the constraints of a participant that encodes or decodes with a codec context.

    The images have the context's pixel format and size. An encoder reads buffers, and a decoder writes them with
    `fill_from()`, which converts. So a decoder may add other formats to `image_format_constraints` of the result; its
    own needs no conversion.

    Args:
        context: A `VideoCodecContext` whose width, height and pixel format are known.
        hold: How many buffers the participant uses at once.

    Raises:
        ValueError: The size or the format isn't known yet, or sysmem has no such pixel format.
    """
    if not context.width or not context.height or not context.pix_fmt:
        raise ValueError(
            "the codec context has no image format yet: set width, height and pix_fmt,"
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
                # A context that says nothing about colours takes those of the other participants.
                color_spaces=[ColorSpace.DO_NOT_CARE if space is None else space],
                min_size=size,
                max_size=size,
                bytes_per_row_divisor=ROW_ALIGNMENT,
            )
        ],
    )
