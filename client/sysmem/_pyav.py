"""Images in buffers as frames of PyAV, and back; needs the extra `sysmem[av]`.

PyAV shares the memory of numpy arrays. FFmpeg may write into frames, which must neither crash nor change what others
see, so the frames of a participant that may only read are over a private mapping.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

from sysmem_protocol.image_format import ImageFormat
from sysmem_protocol.images2 import ColorSpace, PixelFormat

from . import _planes
from ._memory import Memory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from av import VideoFrame
    from numpy.typing import NDArray

_F = PixelFormat

#: Formats whose planes PyAV accepts by DLPack, each plane separately.
_PLANAR = frozenset({_F.NV12, _F.P010, _F.I420, _F.YV12, _F.L8, _F.R8})
#: Formats whose only plane PyAV accepts as an array.
_PACKED = frozenset({_F.R8G8B8A8, _F.B8G8R8A8, _F.R8G8B8, _F.B8G8R8, _F.R3G3B2})


class _Codes(NamedTuple):
    """FFmpeg's numbers of a colour space. They are those of ITU-T H.273; the range is 1 (limited) or 2 (full)."""

    primaries: int
    transfer: int
    matrix: int
    range: int


_PRIMARIES = {"bt709": 1, "bt470bg": 5, "smpte170m": 6, "bt2020": 9}
_TRANSFERS = {"bt709": 1, "smpte170m": 6, "iec61966-2-1": 13, "bt2020-10": 14, "smpte2084": 16}
_MATRICES = {"gbr": 0, "bt709": 1, "bt470bg": 5, "smpte170m": 6, "bt2020nc": 9}
_RANGES = {"tv": 1, "pc": 2}


def color_codes(color_space: ColorSpace) -> _Codes | None:
    """Return FFmpeg's numbers of a colour space, or None if it says nothing about colours."""
    names = color_space.ffmpeg
    if names is None:
        return None
    return _Codes(
        _PRIMARIES[names.primaries],
        _TRANSFERS[names.transfer],
        _MATRICES[names.matrix],
        _RANGES[names.range],
    )


def color_space(frame: Any) -> ColorSpace | None:
    """Return the colour space that has the matrix and range of a frame or codec context, or None."""
    for space in ColorSpace:
        codes = color_codes(space)
        if codes and (codes.matrix, codes.range) == (frame.colorspace, frame.color_range):
            return space
    return None


def video_frame(
    memory: Memory,
    size: int,
    of: ImageFormat,
    *,
    pts: int | None,
    time_base: Fraction | None,
    copy: bool | None,
) -> VideoFrame:
    """Return the visible part of an image as a frame; see :meth:`VmoBuffer.video_frame`."""
    av = _av()
    name = ffmpeg_name(of)
    if copy is False and of.pixel_format not in _PLANAR | _PACKED:
        known = ", ".join(sorted(PixelFormat(each).name for each in _PLANAR | _PACKED))
        raise ValueError(f"PyAV can share the memory of {known}, not of {of.pixel_format.name}")
    planes = _in_ffmpeg_s_order(_planes.planes(memory._replace(private=True), size, of), of)
    if copy or of.pixel_format not in _PLANAR | _PACKED:
        _, _, width, height = of.display_rect
        frame: VideoFrame = av.VideoFrame(width, height, name)
        for plane, target in zip(planes, _arrays(frame, planes), strict=True):
            target[:] = plane
    elif of.pixel_format in _PLANAR:
        frame = av.VideoFrame.from_dlpack(planes, format=name)
    else:
        frame = av.VideoFrame.from_numpy_buffer(planes[0], format=name)
    codes = color_codes(of.color_space)
    if codes is not None:
        frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range = codes
    frame.pts = pts
    if time_base is not None:
        frame.time_base = time_base
    return frame


def fill(memory: Memory, size: int, of: ImageFormat, frame: VideoFrame) -> None:
    """Write a frame into the visible part of an image; see :meth:`VmoBuffer.fill_from`."""
    av = _av()
    if not isinstance(frame, av.VideoFrame):
        raise TypeError(f"expected an av.VideoFrame, not {type(frame).__name__}")
    if not memory.writable:
        raise ValueError("the rights do not allow writing to this buffer")
    name = ffmpeg_name(of)
    planes = _in_ffmpeg_s_order(_planes.planes(memory, size, of), of)
    converted = _converted(frame, of, name)
    for plane, source in zip(planes, _arrays(converted, planes), strict=True):
        plane[:] = source


def ffmpeg_name(of: ImageFormat) -> str:
    """Return FFmpeg's name of an image's format. YV12 has the name of I420; its planes are in another order.

    Raises:
        ValueError: FFmpeg has no such format.
    """
    name = (_F.I420 if of.pixel_format == _F.YV12 else of.pixel_format).ffmpeg_name
    if name is None:
        raise ValueError(f"FFmpeg has no format like {of.pixel_format.name}")
    return name


def _in_ffmpeg_s_order(planes: list[NDArray[Any]], of: ImageFormat) -> list[NDArray[Any]]:
    if of.pixel_format == _F.YV12:
        luma, red, blue = planes
        return [luma, blue, red]
    return planes


def _arrays(frame: VideoFrame, like: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """Return the planes of a frame that PyAV has allocated, with the shapes and types of a buffer's planes."""
    import numpy as np

    found = []
    for plane, model in zip(frame.planes, like, strict=True):
        strides = (plane.line_size, *model.strides[1:])
        found.append(np.ndarray(model.shape, model.dtype, memoryview(plane), 0, strides))
    return found


def _converted(frame: VideoFrame, of: ImageFormat, name: str) -> VideoFrame:
    """Return the frame itself if it has the size, format and colours of an image, otherwise a converted frame.

    A frame that doesn't say which colours its Y, Cb and Cr mean is assumed to have those of the image.
    """
    _, _, width, height = of.display_rect
    codes = color_codes(of.color_space)
    if codes is None or codes.matrix == _RGB:
        return frame.reformat(width, height, name)
    matrix = _SWSCALE_601 if codes.matrix in _MATRICES_OF_601 else codes.matrix
    unknown = frame.colorspace == _UNSPECIFIED
    return frame.reformat(
        width,
        height,
        name,
        src_colorspace=matrix if unknown else None,
        dst_colorspace=matrix,
        src_color_range=codes.range if unknown and not frame.color_range else frame.color_range,
        dst_color_range=codes.range,
    )


#: FFmpeg's numbers of special matrices: RGB, unknown, and the two of BT.601, for which its scaler has one number.
_RGB = 0
_UNSPECIFIED = 2
_MATRICES_OF_601 = (5, 6)
_SWSCALE_601 = 5


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise ImportError("video frames need PyAV: pip install 'sysmem[av]'") from error
    return av
