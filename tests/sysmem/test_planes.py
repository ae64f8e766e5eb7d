"""Planes of every linear format as numpy arrays over the buffer itself.

See `docs/spec/image-formats.md`, sections 1.1, 2.4 and 2.5.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy
import pytest
from numpy.typing import NDArray

import sysmem
from sysmem import PixelFormat, PixelFormatModifier, SizeU
from sysmem._planes import PLANES
from sysmem.blocking import Allocator, BufferCollection, BufferCollectionToken
from sysmem_protocol.formats import PIXELS

F = PixelFormat
#: format → for an image of 6 × 4 pixels, bytes per row 32: (shape, strides, offset, item size) of each plane.
EXPECTED: dict[PixelFormat, list[tuple[tuple[int, ...], tuple[int, ...], int, int]]] = {
    F.R8G8B8A8: [((4, 6, 4), (32, 4, 1), 0, 1)],
    F.R8G8B8X8: [((4, 6, 4), (32, 4, 1), 0, 1)],
    F.B8G8R8A8: [((4, 6, 4), (32, 4, 1), 0, 1)],
    F.B8G8R8X8: [((4, 6, 4), (32, 4, 1), 0, 1)],
    F.I420: [((4, 6), (32, 1), 0, 1), ((2, 3), (16, 1), 128, 1), ((2, 3), (16, 1), 160, 1)],
    F.YV12: [((4, 6), (32, 1), 0, 1), ((2, 3), (16, 1), 128, 1), ((2, 3), (16, 1), 160, 1)],
    F.NV12: [((4, 6), (32, 1), 0, 1), ((2, 3, 2), (32, 2, 1), 128, 1)],
    F.P010: [((4, 6), (32, 2), 0, 2), ((2, 3, 2), (32, 4, 2), 128, 2)],
    F.M420: [((6, 6), (32, 1), 0, 1)],
    F.YUY2: [((4, 3, 4), (32, 4, 1), 0, 1)],
    F.B8G8R8: [((4, 6, 3), (32, 3, 1), 0, 1)],
    F.R8G8B8: [((4, 6, 3), (32, 3, 1), 0, 1)],
    F.R8G8: [((4, 6, 2), (32, 2, 1), 0, 1)],
    F.R5G6B5: [((4, 6), (32, 2), 0, 2)],
    F.A2R10G10B10: [((4, 6), (32, 4), 0, 4)],
    F.A2B10G10R10: [((4, 6), (32, 4), 0, 4)],
    F.R3G3B2: [((4, 6), (32, 1), 0, 1)],
    F.R2G2B2X2: [((4, 6), (32, 1), 0, 1)],
    F.L8: [((4, 6), (32, 1), 0, 1)],
    F.R8: [((4, 6), (32, 1), 0, 1)],
}


def memory(size: int, start: int = 0) -> sysmem.VmoBuffer:
    fd = os.memfd_create("planes", os.MFD_CLOEXEC)
    os.truncate(fd, size)
    return sysmem.VmoBuffer(vmo=sysmem.Vmo(fd), vmo_usable_start=start)


@pytest.fixture
def buffer() -> Iterator[sysmem.VmoBuffer]:
    with closing(memory(4096)) as made:
        yield made


def test_every_linear_format_has_its_planes() -> None:
    assert set(EXPECTED) == set(PIXELS) == set(PLANES)


@pytest.mark.parametrize("pixel_format", EXPECTED, ids=lambda f: f.name)
def test_shape_strides_and_place_of_each_plane(
    buffer: sysmem.VmoBuffer, pixel_format: PixelFormat
) -> None:
    image = sysmem.ImageFormat(pixel_format, SizeU(6, 4), 32)
    planes = buffer.planes(image)
    expected = EXPECTED[pixel_format]
    assert len(planes) == len(expected)
    for index, (plane, (shape, strides, offset, item_size)) in enumerate(
        zip(planes, expected, strict=True)
    ):
        assert plane.shape == shape
        assert plane.strides == strides
        assert plane.itemsize == item_size
        assert (image.plane_byte_offset(index), image.plane_row_bytes(index)) == (
            offset,
            strides[0],
        )
        plane[-1, -1] = 0xA5
        with buffer.map() as view:
            last = offset + (shape[0] - 1) * strides[0] + (shape[1] - 1) * strides[1]
            assert view[last] == 0xA5, "written in place, not into a copy"


def test_planes_begin_where_the_usable_part_does() -> None:
    buffer = memory(4096, start=1024)
    [plane] = buffer.planes(sysmem.ImageFormat(F.L8, SizeU(4, 4), 4))
    plane[0, 0] = 7
    with buffer.vmo.map() as view:  # type: ignore[union-attr]  # made with one
        assert view[1024] == 7
    buffer.close()


def test_an_image_that_doesnt_fit_is_refused(buffer: sysmem.VmoBuffer) -> None:
    with pytest.raises(ValueError, match="6144 bytes doesn't fit the 4096"):
        buffer.planes(sysmem.ImageFormat(F.NV12, SizeU(64, 64), 64))


def test_formats_that_arent_in_rows_are_refused(buffer: sysmem.VmoBuffer) -> None:
    tiled = PixelFormatModifier.INTEL_I915_X_TILED
    with pytest.raises(ValueError, match="B8G8R8A8 INTEL_I915_X_TILED has no planes"):
        buffer.planes(sysmem.ImageFormat(F.B8G8R8A8, SizeU(8, 8), 512, tiled))
    with pytest.raises(ValueError, match="MJPEG LINEAR has no planes"):
        buffer.planes(sysmem.ImageFormat(F.MJPEG, SizeU(8, 8), 8))


@pytest.mark.parametrize(
    ("pixel_format", "width", "height", "reason"),
    [
        (F.NV12, 5, 4, "width must be a multiple of 2: the next are 4 and 6"),
        (F.NV12, 4, 5, "height must be a multiple of 2: the next are 4 and 6"),
        (F.P010, 4, 0, "height must be at least 2, not 0"),
        (F.R8, 0, 4, "width must be at least 1, not 0"),
        (F.R8, 4, -1, "height must be at least 1, not -1"),
    ],
)
def test_a_size_that_no_image_has_is_refused(
    buffer: sysmem.VmoBuffer, pixel_format: PixelFormat, width: int, height: int, reason: str
) -> None:
    with pytest.raises(ValueError, match=f"^{pixel_format.name}: {reason}"):
        buffer.planes(sysmem.ImageFormat(pixel_format, SizeU(width, height), 64))


@pytest.mark.parametrize(
    ("pixel_format", "bytes_per_row", "message"),
    [
        (F.R8, 0, "10 pixels of R8 take 10 bytes per row or more, not 0"),
        (F.R8, 9, "10 pixels of R8 take 10 bytes per row or more, not 9"),
        (F.B8G8R8A8, 8, "10 pixels of B8G8R8A8 take 40 bytes per row or more, not 8"),
        (F.B8G8R8, -30, "10 pixels of B8G8R8 take 30 bytes per row or more, not -30"),
        (F.P010, 22, "bytes per row of P010 must be a multiple of 4, not 22: the next is 24"),
        (F.I420, 11, "bytes per row of I420 must be a multiple of 2, not 11: the next is 12"),
    ],
)
def test_rows_that_no_image_has_are_refused(
    buffer: sysmem.VmoBuffer, pixel_format: PixelFormat, bytes_per_row: int, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        buffer.planes(sysmem.ImageFormat(pixel_format, SizeU(10, 10), bytes_per_row))


def test_numbers_of_numpy_do_not_overflow() -> None:
    row: Any = numpy.uint8(16)
    assert sysmem.ImageFormat(F.R8, SizeU(row, row), row).byte_size() == 256


@pytest.mark.parametrize("pixel_format", EXPECTED, ids=lambda f: f.name)
def test_the_least_rows_are_allowed(buffer: sysmem.VmoBuffer, pixel_format: PixelFormat) -> None:
    image = sysmem.ImageFormat(pixel_format, SizeU(8, 8), 8 * PIXELS[pixel_format].stride_bytes)
    assert sum(plane.nbytes for plane in buffer.planes(image)) == image.byte_size()


def test_another_kind_of_object_is_refused(buffer: sysmem.VmoBuffer) -> None:
    planes: Any = buffer.planes
    with pytest.raises(TypeError, match=r"expected an ImageFormat or .*, not SizeU"):
        planes(SizeU(4, 4))
    with pytest.raises(TypeError, match="expected a SizeU, not tuple"):
        planes(sysmem.ImageFormatConstraints(pixel_format=F.R8), (4, 4))


def test_the_transaction_elimination_buffer_is_no_plane_of_pixels(buffer: sysmem.VmoBuffer) -> None:
    modifier = PixelFormatModifier.ARM_LINEAR_TE
    assert len(buffer.planes(sysmem.ImageFormat(F.NV12, SizeU(8, 8), 8, modifier))) == 2


def test_a_size_beside_an_image_format_must_be_its_own(buffer: sysmem.VmoBuffer) -> None:
    image = sysmem.ImageFormat(F.L8, SizeU(4, 4), 4)
    assert len(buffer.planes(image, SizeU(4, 4))) == 1
    with pytest.raises(ValueError, match="the image format has the size"):
        buffer.planes(image, SizeU(2, 2))


def test_constraints_that_name_no_size_need_one(buffer: sysmem.VmoBuffer) -> None:
    constraints = sysmem.ImageFormatConstraints(
        pixel_format=F.L8, pixel_format_modifier=PixelFormatModifier.LINEAR, max_size=SizeU(8, 8)
    )
    with pytest.raises(ValueError, match="have no min_size"):
        buffer.planes(constraints)
    assert buffer.planes(constraints, SizeU(8, 8))[0].shape == (8, 8)
    with pytest.raises(ValueError, match=r"width must be at most 8 \(max_size\), not 9"):
        buffer.planes(constraints, SizeU(9, 8))


def numbered(buffer: sysmem.VmoBuffer, image: sysmem.ImageFormat) -> list[NDArray[Any]]:
    """Return the planes of an image in which every sample has another number."""
    planes = buffer.planes(image)
    for index, plane in enumerate(planes):
        plane[:] = numpy.arange(plane.size).reshape(plane.shape) + 7 * index
    return planes


@pytest.mark.parametrize("pixel_format", EXPECTED, ids=lambda f: f.name)
def test_a_display_rect_gives_the_planes_of_that_part(
    buffer: sysmem.VmoBuffer, pixel_format: PixelFormat
) -> None:
    whole = numbered(buffer, sysmem.ImageFormat(pixel_format, SizeU(6, 4), 32))
    part = buffer.planes(
        sysmem.ImageFormat(pixel_format, SizeU(6, 4), 32, display_rect=(2, 2, 4, 2))
    )
    for plane, of_part in zip(whole, part, strict=True):
        rows, columns = plane.shape[0] // 2, plane.shape[1] // 3
        assert (of_part == plane[rows:, columns:]).all()
        assert of_part.strides == plane.strides


def test_of_an_odd_part_the_chroma_covers_the_last_pixel_too(buffer: sysmem.VmoBuffer) -> None:
    luma, chroma = numbered(buffer, sysmem.ImageFormat(F.NV12, SizeU(32, 24), 32))
    visible = sysmem.ImageFormat(F.NV12, SizeU(32, 24), 32, display_rect=(0, 2, 31, 21))
    shown = buffer.planes(visible)
    assert [plane.shape for plane in shown] == [(21, 31), (11, 16, 2)]
    assert (shown[0] == luma[2:23, :31]).all()
    assert (shown[1] == chroma[1:12]).all()


@pytest.mark.parametrize(
    ("pixel_format", "rect", "reason"),
    [
        (
            F.NV12,
            (1, 0, 4, 4),
            "x of display_rect must be a multiple of 2, not 1: 2 pixels share a sample",
        ),
        (F.I420, (0, 3, 4, 4), "y of display_rect must be a multiple of 2, not 3"),
        (F.YUY2, (1, 0, 4, 4), "x of display_rect must be a multiple of 2, not 1"),
        (F.YUY2, (0, 0, 3, 3), "width of display_rect must be a multiple of 2, not 3"),
        (F.M420, (1, 0, 4, 4), "x of display_rect must be a multiple of 2, not 1"),
        (F.M420, (0, 0, 3, 4), "width of display_rect must be a multiple of 2, not 3"),
        (F.M420, (0, 0, 4, 3), "height of display_rect must be a multiple of 2, not 3"),
        (F.R8, (0, 0, 9, 8), r"display_rect \(0, 0, 9, 8\) isn't within 8 × 8 pixels"),
        (F.R8, (0, 1, 8, 8), r"display_rect \(0, 1, 8, 8\) isn't within 8 × 8 pixels"),
        (
            F.R8,
            (-1, 0, 8, 8),
            r"display_rect \(-1, 0, 8, 8\) is empty or begins outside of the image",
        ),
        (F.R8, (0, 0, 8, 0), r"display_rect \(0, 0, 8, 0\) is empty"),
    ],
)
def test_a_part_that_the_format_cant_give_is_refused(
    buffer: sysmem.VmoBuffer,
    pixel_format: PixelFormat,
    rect: tuple[int, int, int, int],
    reason: str,
) -> None:
    image = sysmem.ImageFormat(pixel_format, SizeU(8, 8), 32, display_rect=rect)
    with pytest.raises(ValueError, match=f"^{pixel_format.name}: {reason}"):
        buffer.planes(image)


@pytest.mark.parametrize("rect", [(1, 1, 3, 3), (0, 3, 7, 1)])
def test_any_part_of_an_image_without_shared_samples_is_given(
    buffer: sysmem.VmoBuffer, rect: tuple[int, int, int, int]
) -> None:
    x, y, width, height = rect
    [whole] = numbered(buffer, sysmem.ImageFormat(F.B8G8R8, SizeU(8, 8), 32))
    [part] = buffer.planes(sysmem.ImageFormat(F.B8G8R8, SizeU(8, 8), 32, display_rect=rect))
    assert (part == whole[y : y + height, x : x + width]).all()


def test_a_buffer_without_a_vmo_has_no_planes() -> None:
    with pytest.raises(ValueError, match="without a VMO"):
        sysmem.VmoBuffer().planes(sysmem.ImageFormat(F.L8, SizeU(4, 4), 4))


def test_arrays_keep_the_memory_when_the_vmo_is_closed(buffer: sysmem.VmoBuffer) -> None:
    [plane] = buffer.planes(sysmem.ImageFormat(F.L8, SizeU(4, 4), 4))
    buffer.close()
    plane[:] = 3
    assert plane.sum() == 48


def test_without_numpy_it_says_what_to_install() -> None:
    program = """
import sys
sys.modules["numpy"] = None
import sysmem
try:
    sysmem.VmoBuffer(vmo=sysmem.Vmo(0)).planes(sysmem.ImageFormat(112, sysmem.SizeU(4, 4), 4))
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    assert "sysmem[numpy]" in done.stdout, done.stderr


def test_negotiated_planes_are_shared_writable_for_one_and_read_only_for_the_other(
    allocator: Allocator,
) -> None:
    token = allocator.allocate_shared_collection()
    other = token.duplicate()
    token.sync()
    image = sysmem.ImageFormatConstraints(
        pixel_format=F.NV12,
        color_spaces=[sysmem.ColorSpace.REC709],
        min_size=SizeU(50, 30),
        bytes_per_row_divisor=64,
    )

    def take_part(token: BufferCollectionToken, usage: sysmem.CpuUsage) -> BufferCollection:
        collection = allocator.bind_shared_collection(token)
        collection.set_constraints(
            sysmem.BufferCollectionConstraints(
                usage=sysmem.BufferUsage(cpu=usage),
                min_buffer_count=1,
                image_format_constraints=[image],
            )
        )
        return collection

    writer = take_part(token, sysmem.CpuUsage.WRITE)
    reader = take_part(other, sysmem.CpuUsage.READ)
    with (
        writer.wait_for_all_buffers_allocated() as written,
        reader.wait_for_all_buffers_allocated() as read,
    ):
        luma, chroma = written.buffers[0].planes(written.settings.image_format_constraints)
        seen, _ = read.buffers[0].planes()
        assert luma.shape == (30, 50)
        assert luma.strides == (64, 1)
        assert chroma.shape == (15, 25, 2)
        luma[:] = numpy.arange(50, dtype=numpy.uint8)
        assert (seen == luma).all()
        assert not seen.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            seen[0, 0] = 1
        del luma, chroma, seen
        gc.collect()
    for collection in (reader, writer):
        collection.release()
