"""An image in a buffer as a `PIL.Image`; needs the extra `sysmem[pillow]`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sysmem_protocol.image_format import ImageFormat
from sysmem_protocol.images2 import PixelFormat

from . import _planes
from ._memory import Memory
from ._rgb import to_rgb

if TYPE_CHECKING:
    from PIL.Image import Image

#: Pillow's modes for the formats whose pixels Pillow stores in the same way.
_SHARED_MODES: dict[int, str] = {
    PixelFormat.R8G8B8A8: "RGBA",
    PixelFormat.R8G8B8X8: "RGBX",
    PixelFormat.L8: "L",
    PixelFormat.R8: "L",
}


def image(memory: Memory, size: int, of: ImageFormat, *, copy: bool | None) -> Image:
    """Return the visible part of an image; see :meth:`VmoBuffer.image`."""
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("image() needs Pillow: pip install 'sysmem[pillow]'") from error
    planes = _planes.planes(memory, size, of)
    mode = _SHARED_MODES.get(of.pixel_format)
    if copy:
        refusal = "copy=True requires a copy"
    elif mode is None:
        modes = ", ".join(PixelFormat(each).name for each in _SHARED_MODES)
        refusal = f"Pillow can share the memory of {modes}, not of {of.pixel_format.name}"
    else:
        x, y, width, height = of.display_rect
        first = y * of.bytes_per_row + x * (planes[0].strides[1])
        rows = _planes.array(memory, memory.size, "u1", None, first)[: height * of.bytes_per_row]
        if len(rows) == height * of.bytes_per_row:
            shared = Image.frombuffer(mode, (width, height), rows, "raw", mode, of.bytes_per_row, 1)
            shared.readonly = int(not memory.writable)
            return shared
        refusal = "Pillow needs whole rows, and the last row of this part ends beyond the memory"
    if copy is False:
        raise ValueError(refusal)
    return Image.fromarray(to_rgb(planes, of.pixel_format, of.color_space))
