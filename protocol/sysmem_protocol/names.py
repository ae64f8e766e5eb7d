"""The names of pixel formats and colour spaces elsewhere (`docs/spec/pictures-and-devices.md`, "Names of formats").

There is one row for each format and each colour space that other software has a name for. The enums get these names as
properties; :mod:`sysmem.formats` finds a format by name. The names are those of `drm_fourcc.h`, `videodev2.h`,
GStreamer's video library and FFmpeg's libavutil.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class FormatNames(NamedTuple):
    """The names of one pixel format; None if the other software has none."""

    #: Four characters. DRM lists the channels of a little-endian word from the most significant one.
    drm: str | None
    v4l2: str | None
    gst: str | None
    ffmpeg: str | None


#: By the name of the :class:`PixelFormat`. If formats share a foreign name, the name stands for the first one.
FORMATS: dict[str, FormatNames] = {
    "R8G8B8A8": FormatNames("AB24", "AB24", "RGBA", "rgba"),
    "R8G8B8X8": FormatNames("XB24", "XB24", "RGBx", "rgb0"),
    "B8G8R8A8": FormatNames("AR24", "AR24", "BGRA", "bgra"),
    "B8G8R8X8": FormatNames("XR24", "XR24", "BGRx", "bgr0"),
    "B8G8R8": FormatNames("RG24", "BGR3", "BGR", "bgr24"),
    "R8G8B8": FormatNames("BG24", "RGB3", "RGB", "rgb24"),
    "R5G6B5": FormatNames("RG16", "RGBP", "RGB16", "rgb565le"),
    "R3G3B2": FormatNames("RGB8", "RGB1", None, "rgb8"),
    "L8": FormatNames(None, "GREY", "GRAY8", "gray"),
    "R8": FormatNames("R8  ", "GREY", "GRAY8", "gray"),
    "R8G8": FormatNames("GR88", None, None, None),
    "A2R10G10B10": FormatNames("AR30", "AR30", "BGR10A2_LE", "x2rgb10le"),
    "A2B10G10R10": FormatNames("AB30", "AB30", "RGB10A2_LE", "x2bgr10le"),
    "NV12": FormatNames("NV12", "NV12", "NV12", "nv12"),
    "I420": FormatNames("YU12", "YU12", "I420", "yuv420p"),
    "YV12": FormatNames("YV12", "YV12", "YV12", None),
    "YUY2": FormatNames("YUYV", "YUYV", "YUY2", "yuyv422"),
    "P010": FormatNames("P010", "P010", "P010_10LE", "p010le"),
    "M420": FormatNames(None, "M420", None, None),
}
_NO_FORMAT = FormatNames(None, None, None, None)


class FfmpegColors(NamedTuple):
    """A colour space in FFmpeg's terms: the names in options of `ffmpeg` and of `av_color_*_name()`."""

    primaries: str
    """The primaries, for example `bt709`."""
    transfer: str
    """The transfer function, for example `bt709`."""
    matrix: str
    """The matrix from RGB to YUV, for example `bt709`."""
    range: str
    """`tv` for limited and `pc` for full range."""


class ColorNames(NamedTuple):
    """The names of one colour space."""

    #: `V4L2_COLORSPACE_*`, `V4L2_QUANTIZATION_*` and `V4L2_XFER_FUNC_*`; 0 is the colour space's default.
    v4l2_colorspace: int
    v4l2_quantization: int
    v4l2_xfer_func: int
    #: The field `colorimetry` of caps: a name, or `range:matrix:transfer:primaries` if there is none.
    gst: str
    ffmpeg: FfmpegColors


_FULL = 1
_PQ = 7

#: By the name of the :class:`ColorSpace`. BT.2100 has two transfer functions. This is PQ, the more common one.
COLORS: dict[str, ColorNames] = {
    "SRGB": ColorNames(8, 0, 0, "sRGB", FfmpegColors("bt709", "iec61966-2-1", "gbr", "pc")),
    "REC601_NTSC": ColorNames(
        1, 0, 0, "bt601", FfmpegColors("smpte170m", "smpte170m", "smpte170m", "tv")
    ),
    "REC601_NTSC_FULL_RANGE": ColorNames(
        1, _FULL, 0, "1:4:16:4", FfmpegColors("smpte170m", "smpte170m", "smpte170m", "pc")
    ),
    "REC601_PAL": ColorNames(
        6, 0, 0, "2:4:16:3", FfmpegColors("bt470bg", "smpte170m", "bt470bg", "tv")
    ),
    "REC601_PAL_FULL_RANGE": ColorNames(
        6, _FULL, 0, "1:4:16:3", FfmpegColors("bt470bg", "smpte170m", "bt470bg", "pc")
    ),
    "REC709": ColorNames(3, 0, 0, "bt709", FfmpegColors("bt709", "bt709", "bt709", "tv")),
    "REC2020": ColorNames(
        10, 0, 0, "bt2020-10", FfmpegColors("bt2020", "bt2020-10", "bt2020nc", "tv")
    ),
    "REC2100": ColorNames(
        10, 0, _PQ, "bt2100-pq", FfmpegColors("bt2020", "smpte2084", "bt2020nc", "tv")
    ),
}


def fourcc(name: str) -> int:
    """Return the number of a four-character code, as in DRM and V4L2: the first character is the lowest byte."""
    return int.from_bytes(name.encode("ascii"), "little")


class NamedFormat(enum.Enum):
    """Adds foreign names to the enum of pixel formats; each is None for a format without one."""

    @property
    def drm_fourcc(self) -> int | None:
        """The number in `drm_fourcc.h` (`DRM_FORMAT_*`)."""
        return None if self.drm_name is None else fourcc(self.drm_name)

    @property
    def drm_name(self) -> str | None:
        """The four characters of :attr:`drm_fourcc`."""
        return self._names.drm

    @property
    def v4l2_fourcc(self) -> int | None:
        """The number in `videodev2.h` (`V4L2_PIX_FMT_*`)."""
        return None if self._names.v4l2 is None else fourcc(self._names.v4l2)

    @property
    def gst_format(self) -> str | None:
        """The field `format` of GStreamer's `video/x-raw` caps."""
        return self._names.gst

    @property
    def ffmpeg_name(self) -> str | None:
        """FFmpeg's name, which is also PyAV's."""
        return self._names.ffmpeg

    @property
    def _names(self) -> FormatNames:
        return FORMATS.get(self.name, _NO_FORMAT)


class NamedColors(enum.Enum):
    """Adds foreign names to the enum of colour spaces; each is None for one that does not define colours."""

    @property
    def v4l2_colorspace(self) -> int | None:
        """The number in `videodev2.h` (`V4L2_COLORSPACE_*`)."""
        return None if self._names is None else self._names.v4l2_colorspace

    @property
    def v4l2_quantization(self) -> int | None:
        """`V4L2_QUANTIZATION_*`: 0 (the default of the colour space) or 1 (full range)."""
        return None if self._names is None else self._names.v4l2_quantization

    @property
    def v4l2_xfer_func(self) -> int | None:
        """`V4L2_XFER_FUNC_*`: 0 (the default of the colour space), or 7 (PQ) for REC2100."""
        return None if self._names is None else self._names.v4l2_xfer_func

    @property
    def gst_colorimetry(self) -> str | None:
        """The field `colorimetry` of GStreamer's `video/x-raw` caps."""
        return None if self._names is None else self._names.gst

    @property
    def ffmpeg(self) -> FfmpegColors | None:
        """FFmpeg's names of primaries, transfer characteristics, matrix and range."""
        return None if self._names is None else self._names.ffmpeg

    @property
    def _names(self) -> ColorNames | None:
        return COLORS.get(self.name)
