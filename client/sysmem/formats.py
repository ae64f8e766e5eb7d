"""Pixel formats and colour spaces by the names of DRM, V4L2, GStreamer and FFmpeg.

The other direction is a property of each member: `PixelFormat.NV12.drm_fourcc`, `.drm_name`, `.v4l2_fourcc`,
`.gst_format`, `.ffmpeg_name`; `ColorSpace.REC709.v4l2_colorspace`, `.gst_colorimetry`, `.ffmpeg`.

The names of V4L2, GStreamer and FFmpeg stand for images in rows, so their modifier is always LINEAR. If two sysmem
formats share a name, the name stands for the usual one: `GREY`, `GRAY8` and `gray` are L8, DRM's `R8` is R8.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping

from sysmem_protocol.formats import is_supported
from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.library import plain_int
from sysmem_protocol.names import COLORS, FORMATS, FfmpegColors, FormatNames

__all__ = [
    "FfmpegColors",
    "color_space_from_ffmpeg",
    "color_space_from_gst",
    "color_space_from_v4l2",
    "from_drm",
    "from_ffmpeg",
    "from_gst",
    "from_v4l2",
]

_Modifier = PixelFormatModifier | int


def from_drm(fourcc: int | str, modifier: int = 0) -> tuple[PixelFormat, _Modifier]:
    """Return the pixel format and the modifier of a DRM fourcc, which may also be given as its four characters.

    `modifier` is a number of the interface. `drm_fourcc.h` has the same numbers for all but layouts with
    transaction elimination, AFBC's tiled headers and Intel's colour control surfaces. A supported modifier
    without a name stays an integer.

    Raises:
        ValueError: The fourcc is unknown, or the format does not exist with this modifier.
    """
    pixel_format = _find("DRM", _BY_DRM, _characters(fourcc))
    modifier = plain_int(modifier)
    if not is_supported(pixel_format, modifier):
        suitable = [each for each in PixelFormatModifier if is_supported(pixel_format, each)]
        vendor = [each for each in suitable if each >> 56 == modifier >> 56] or suitable
        raise ValueError(
            f"{pixel_format.name} does not exist with the modifier {modifier:#018x}; similar ones: "
            + ", ".join(f"{each.name} ({each:#x})" for each in vendor)
        )
    try:
        return pixel_format, PixelFormatModifier(modifier)
    except ValueError:
        return pixel_format, modifier


def from_v4l2(fourcc: int | str) -> tuple[PixelFormat, PixelFormatModifier]:
    """Return the pixel format and modifier of a V4L2 fourcc, which may also be given as its four characters.

    Raises:
        ValueError: The fourcc is unknown.
    """
    return _find("V4L2", _BY_V4L2, _characters(fourcc)), PixelFormatModifier.LINEAR


def from_gst(name: str) -> tuple[PixelFormat, PixelFormatModifier]:
    """Return the pixel format and modifier of a GStreamer name, the field `format` of `video/x-raw` caps.

    Raises:
        ValueError: The name is unknown.
    """
    return _find("GStreamer", _BY_GST, name), PixelFormatModifier.LINEAR


def from_ffmpeg(name: str) -> tuple[PixelFormat, PixelFormatModifier]:
    """Return the pixel format and modifier of an FFmpeg name, as `ffmpeg -pix_fmts` lists it and PyAV uses it.

    Raises:
        ValueError: The name is unknown.
    """
    return _find("FFmpeg", _BY_FFMPEG, name), PixelFormatModifier.LINEAR


def color_space_from_v4l2(
    colorspace: int, quantization: int = 0, xfer_func: int = 0
) -> ColorSpace | None:
    """Return the colour space that corresponds to a V4L2 driver's values, or None if there is none.

    Zeros are the defaults of the colour space (`V4L2_QUANTIZATION_DEFAULT`, `V4L2_XFER_FUNC_DEFAULT`).
    """
    full = quantization == _FULL_RANGE
    for name, names in COLORS.items():
        if (names.v4l2_colorspace, names.v4l2_xfer_func) == (colorspace, xfer_func) and (
            full == (names.v4l2_quantization == _FULL_RANGE) or name == "SRGB"
        ):
            return ColorSpace[name]
    return None


def color_space_from_gst(colorimetry: str) -> ColorSpace | None:
    """Return the colour space of the field `colorimetry` of caps, or None if there is none."""
    return next(
        (ColorSpace[name] for name, names in COLORS.items() if names.gst == colorimetry), None
    )


def color_space_from_ffmpeg(
    *, matrix: str, range: str = "tv", primaries: str | None = None, transfer: str | None = None
) -> ColorSpace | None:
    """Return the colour space of FFmpeg's names, or None if there is none.

    The matrix and the range determine it; primaries and transfer are compared only if they are given.
    """
    for name, names in COLORS.items():
        colors = names.ffmpeg
        if (
            (colors.matrix, colors.range) == (matrix, range)
            and primaries in (None, colors.primaries)
            and transfer in (None, colors.transfer)
        ):
            return ColorSpace[name]
    return None


# --- look-up --------------------------------------------------------------------------------------------------------

_FULL_RANGE = 1
#: The maximum number of similar names that an error lists.
_NEAR = 4


def _by(pick: Callable[[FormatNames], str | None]) -> dict[str, PixelFormat]:
    """Return the formats by one software's names. If several share a name, the first one wins."""
    found: dict[str, PixelFormat] = {}
    for name, names in FORMATS.items():
        other = pick(names)
        if other is not None:
            found.setdefault(other, PixelFormat[name])
    return found


_BY_DRM = _by(lambda names: names.drm)
_BY_V4L2 = _by(lambda names: names.v4l2)
_BY_GST = _by(lambda names: names.gst)
_BY_FFMPEG = _by(lambda names: names.ffmpeg)


def _characters(code: int | str) -> str:
    """Return a fourcc as its four characters, or in hexadecimal if it is not four ASCII characters."""
    if isinstance(code, str):
        return code.ljust(4)
    code = plain_int(code)
    if not isinstance(code, int):
        raise TypeError(f"a fourcc is an int or four characters, not {type(code).__name__}")
    if not 0 <= code < 1 << 32:
        return hex(code)
    name = code.to_bytes(4, "little").decode("latin-1")
    return name if name.isascii() and name.isprintable() else hex(code)


def _find(whose: str, known: Mapping[str, PixelFormat], name: str) -> PixelFormat:
    found = known.get(name)
    if found is not None:
        return found
    folded = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(name.casefold(), folded, n=_NEAR, cutoff=0.4) or list(folded)
    listed = ", ".join(f"{folded[each]} ({known[folded[each]].name})" for each in near)
    raise ValueError(f"no pixel format has the {whose} name {name!r}; similar names: {listed}")
