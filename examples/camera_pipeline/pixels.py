"""Images as they lie in a buffer: where their rows are, and what their bytes mean.

Two formats, those that the camera offers: BGRA in sRGB, and NV12 in Rec. 709 (limited range). All are numpy arrays: an
image is (rows, bytes per row), a photograph (height, width, 3) in RGB.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import sysmem

Bytes = NDArray[np.uint8]

# From R, G, B in 0 to 1 to Y in 16 to 235 and Cb, Cr in 16 to 240.
_KR, _KB = 0.2126, 0.0722
_LUMA = np.array([_KR, 1 - _KR - _KB, _KB])
_CB = (np.array([0, 0, 1]) - _LUMA) / (2 * (1 - _KB))
_CR = (np.array([1, 0, 0]) - _LUMA) / (2 * (1 - _KR))
_TO_YCBCR = (np.stack([_LUMA * 219, _CB * 224, _CR * 224]) / 255).astype(np.float32)
_TO_RGB = np.linalg.inv(_TO_YCBCR).astype(np.float32)
_OFFSET = np.array([16, 128, 128], np.float32)


@dataclass(frozen=True)
class Layout:
    """How the image lies in each buffer of a collection."""

    pixel_format: sysmem.PixelFormat
    width: int
    height: int
    bytes_per_row: int

    @classmethod
    def negotiated(cls, settings: sysmem.SingleBufferSettings) -> Layout:
        """What follows from the settings that everybody got: so everybody comes to the same.

        Rows are as short as all participants together allow. The size is fixed as the camera has one size only.
        """
        constraints = settings.image_format_constraints
        assert constraints is not None, "everybody asked for images"
        image = sysmem.ImageFormat.of(constraints)
        pixel_format = sysmem.PixelFormat(image.pixel_format)
        return cls(pixel_format, image.size.width, image.size.height, image.bytes_per_row)

    @property
    def rows(self) -> int:
        """Rows of the image: NV12 has half as many again, of interleaved Cb and Cr, below those of the luma."""
        nv12 = self.pixel_format == sysmem.PixelFormat.NV12
        return self.height * 3 // 2 if nv12 else self.height

    @property
    def size(self) -> int:
        """Bytes of the image, from the start of a buffer."""
        return self.rows * self.bytes_per_row


def look(view: memoryview, layout: Layout) -> Bytes:
    """The image in a mapped buffer. Nothing is copied: the array *is* the shared memory."""
    image = np.frombuffer(view, np.uint8, count=layout.size)
    return image.reshape(layout.rows, layout.bytes_per_row)


def from_rgb(rgb: Bytes, layout: Layout) -> Bytes:
    """An image of a photograph, with zeros where rows are padded."""
    image = np.zeros((layout.rows, layout.bytes_per_row), np.uint8)
    if layout.pixel_format == sysmem.PixelFormat.B8G8R8A8:
        pixels = image[:, : layout.width * 4].reshape(layout.height, layout.width, 4)
        pixels[..., :3] = rgb[..., ::-1]
        pixels[..., 3] = 255
        return image
    colours = rgb.astype(np.float32)
    offset = _OFFSET + np.float32(0.5)  # conversion to integers cuts off
    luma(image, layout)[:] = colours @ _TO_YCBCR[0] + offset[0]
    # One pair of Cb and Cr for each square of four pixels, from their mean.
    mean = (colours[::2, ::2] + colours[::2, 1::2] + colours[1::2, ::2] + colours[1::2, 1::2]) / 4
    chroma(image, layout)[:] = mean @ _TO_YCBCR[1:].T + offset[1:]
    return image


def to_rgb(image: Bytes, layout: Layout) -> Bytes:
    """The photograph in an image."""
    if layout.pixel_format == sysmem.PixelFormat.B8G8R8A8:
        pixels = image[:, : layout.width * 4].reshape(layout.height, layout.width, 4)
        return pixels[..., 2::-1].copy()
    pairs = chroma(image, layout)
    ycbcr = np.empty((layout.height, layout.width, 3), np.float32)
    ycbcr[..., 0] = luma(image, layout)
    ycbcr[..., 1:] = pairs.repeat(2, axis=0).repeat(2, axis=1)
    rgb = (ycbcr - _OFFSET) @ _TO_RGB.T
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def luma(image: Bytes, layout: Layout) -> Bytes:
    """The luma of an NV12 image, (height, width); not copied."""
    return image[: layout.height, : layout.width]


def chroma(image: Bytes, layout: Layout) -> Bytes:
    """The chroma of an NV12 image, (height / 2, width / 2, 2 for Cb and Cr); not copied."""
    pairs = image[layout.height :, : layout.width]
    return pairs.reshape(layout.height // 2, layout.width // 2, 2)
