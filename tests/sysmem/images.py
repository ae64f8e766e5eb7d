"""Buffers for tests of images: memory without a daemon, and a colourful picture in any format."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sysmem
from sysmem import ColorSpace, ImageFormat, PixelFormat, SizeU
from sysmem_protocol.formats import PIXELS, supports_color_space


def buffer(size: int = 65536, start: int = 0) -> sysmem.VmoBuffer:
    """Return a buffer that was not negotiated. The caller closes it."""
    fd = os.memfd_create("images", os.MFD_CLOEXEC)
    os.truncate(fd, size)
    return sysmem.VmoBuffer(vmo=sysmem.Vmo(fd), vmo_usable_start=start)


def read_only(of: sysmem.VmoBuffer) -> sysmem.VmoBuffer:
    """Return another handle to a buffer, without the right to write. The caller closes it."""
    assert of.vmo is not None
    fd = os.open(f"/proc/self/fd/{of.vmo.fileno()}", os.O_RDONLY | os.O_CLOEXEC)
    return sysmem.VmoBuffer(vmo=sysmem.Vmo(fd), vmo_usable_start=of.vmo_usable_start)


def image_format(
    pixel_format: PixelFormat,
    width: int = 32,
    height: int = 18,
    color_space: ColorSpace | None = None,
    **more: Any,
) -> ImageFormat:
    """Return an image with padded rows, in the usual colour space of its format."""
    if color_space is None:
        suits_srgb = supports_color_space(pixel_format, ColorSpace.SRGB)
        color_space = ColorSpace.SRGB if suits_srgb else ColorSpace.REC709
    row = width * PIXELS[pixel_format].stride_bytes + 48
    row += -row % 16
    return ImageFormat(pixel_format, SizeU(width, height), row, color_space=color_space, **more)


def picture(width: int = 32, height: int = 18) -> NDArray[np.uint8]:
    """Return R, G and B that change slowly, so that subsampled chroma loses little: (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    channels = [x / width * 200 + 30, y / height * 200 + 30, (x + y) / (width + height) * 200 + 30]
    return np.stack(channels, axis=-1).astype(np.uint8)
