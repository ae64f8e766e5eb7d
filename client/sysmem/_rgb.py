"""The colours of an image as R, G and B of 8 bits, computed with numpy from its planes.

The result is for people to look at. Transfer functions and primaries are not converted, so SDR colours are right, and
colours of REC2020 and REC2100 look as on a display without colour management.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sysmem_protocol.formats import color_name, format_name
from sysmem_protocol.images2 import ColorSpace, PixelFormat

if TYPE_CHECKING:
    from numpy.typing import NDArray

_C = ColorSpace
_F = PixelFormat

#: The weights of R and B in Y. The weight of G is the rest to 1 (BT.601, BT.709, BT.2020).
_WEIGHTS: dict[int, tuple[float, float]] = {
    _C.REC601_NTSC: (0.299, 0.114),
    _C.REC601_NTSC_FULL_RANGE: (0.299, 0.114),
    _C.REC601_PAL: (0.299, 0.114),
    _C.REC601_PAL_FULL_RANGE: (0.299, 0.114),
    _C.REC709: (0.2126, 0.0722),
    _C.REC2020: (0.2627, 0.0593),
    _C.REC2100: (0.2627, 0.0593),
}
_FULL_RANGE = frozenset({_C.REC601_NTSC_FULL_RANGE, _C.REC601_PAL_FULL_RANGE})
#: The indices of R, G, B and A in the third axis of a plane.
_CHANNELS: dict[int, list[int]] = {
    _F.R8G8B8A8: [0, 1, 2, 3],
    _F.B8G8R8A8: [2, 1, 0, 3],
    _F.R8G8B8X8: [0, 1, 2],
    _F.B8G8R8X8: [2, 1, 0],
    _F.R8G8B8: [0, 1, 2],
    _F.B8G8R8: [2, 1, 0],
}
#: The lowest bit and the number of bits of R, G, B and A in a packed pixel.
_PACKED: dict[int, list[tuple[int, int]]] = {
    _F.R5G6B5: [(11, 5), (5, 6), (0, 5)],
    _F.R3G3B2: [(5, 3), (2, 3), (0, 2)],
    _F.R2G2B2X2: [(6, 2), (4, 2), (2, 2)],
    _F.A2R10G10B10: [(20, 10), (10, 10), (0, 10), (30, 2)],
    _F.A2B10G10R10: [(0, 10), (10, 10), (20, 10), (30, 2)],
}


def to_rgb(planes: Sequence[NDArray[Any]], pixel_format: int, color_space: int) -> NDArray[Any]:
    """Return a copy of an image: (height, width) for L8 and R8, otherwise with a third axis of R, G, B and maybe A.

    Args:
        planes: The planes that `VmoBuffer.planes()` returns.
        pixel_format: The pixel format of the planes.
        color_space: The colour space; it matters only for Y, Cb and Cr.

    Raises:
        ValueError: The samples are Y, Cb and Cr of an unknown colour space.
    """
    import numpy as np

    if pixel_format in _CHANNELS:
        return planes[0][..., _CHANNELS[pixel_format]]
    if pixel_format in _PACKED:
        return _unpacked(planes[0], _PACKED[pixel_format])
    if pixel_format in (_F.L8, _F.R8):
        return planes[0].copy()
    if pixel_format == _F.R8G8:
        return np.concatenate([planes[0], np.zeros_like(planes[0][..., :1])], axis=-1)
    return _from_ycbcr(*_ycbcr(planes, pixel_format), color_space)


def _unpacked(pixels: NDArray[Any], fields: list[tuple[int, int]]) -> NDArray[Any]:
    import numpy as np

    rgb = np.empty((*pixels.shape, len(fields)), np.uint8)
    for channel, (shift, bits) in enumerate(fields):
        greatest = (1 << bits) - 1
        value = (pixels.astype(np.uint32) >> shift) & greatest
        rgb[..., channel] = (value * 255 + greatest // 2) // greatest
    return rgb


def _ycbcr(
    planes: Sequence[NDArray[Any]], pixel_format: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return Y, Cb and Cr on a scale of 8 bits, maybe with fractions. Cb and Cr have as many samples as are stored."""
    import numpy as np

    first = planes[0]
    match pixel_format:
        case _F.NV12:
            return first, planes[1][..., 0], planes[1][..., 1]
        case _F.P010:  # the 10 bits are the highest of 16
            pairs = planes[1].astype(np.float32) / 256
            return first.astype(np.float32) / 256, pairs[..., 0], pairs[..., 1]
        case _F.I420:
            return first, planes[1], planes[2]
        case _F.YV12:
            return first, planes[2], planes[1]
        case _F.YUY2:
            return first[..., 0::2].reshape(first.shape[0], -1), first[..., 1], first[..., 3]
        case _F.M420:
            chroma = first[2::3]
            luma = np.delete(first, np.s_[2::3], axis=0)
            return luma, chroma[:, 0::2], chroma[:, 1::2]
        case _:
            raise ValueError(f"the colours of {format_name(pixel_format)} are not known here")


def _from_ycbcr(
    y: NDArray[Any], cb: NDArray[Any], cr: NDArray[Any], color_space: int
) -> NDArray[Any]:
    import numpy as np

    if color_space not in _WEIGHTS:
        raise ValueError(
            f"{color_name(color_space)} does not define Y, Cb and Cr:"
            " pass an image format with the right colour space"
        )
    red, blue = _WEIGHTS[color_space]
    green = 1 - red - blue
    full = color_space in _FULL_RANGE
    height, width = y.shape
    luma = y.astype(np.float32) if full else (y.astype(np.float32) - 16) * (255 / 219)
    scale = 1.0 if full else 255 / 224

    def chroma(samples: NDArray[Any]) -> NDArray[Any]:
        offset = (samples.astype(np.float32) - 128) * scale
        rows = offset if offset.shape[0] == height else offset.repeat(2, axis=0)
        return rows.repeat(2, axis=1)[:height, :width]

    from_blue, from_red = chroma(cb) * (2 - 2 * blue), chroma(cr) * (2 - 2 * red)
    rgb = np.empty((height, width, 3), np.float32)
    rgb[..., 0] = luma + from_red
    rgb[..., 1] = luma - (red * from_red + blue * from_blue) / green
    rgb[..., 2] = luma + from_blue
    return np.clip(np.rint(rgb, out=rgb), 0, 255, out=rgb).astype(np.uint8)
