"""Images of Pillow that share a buffer or are converted from it, and the colours of every format."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw

import sysmem
from sysmem import ColorSpace, PixelFormat, PixelFormatModifier, blocking
from sysmem._pillow import _SHARED_MODES
from sysmem_protocol.formats import PIXELS

from .images import buffer, image_format, picture, read_only

F = PixelFormat
SHARED = list(_SHARED_MODES)


@pytest.fixture
def memory() -> Iterator[sysmem.VmoBuffer]:
    with closing(buffer(start=4096)) as made:
        yield made


def written(memory: sysmem.VmoBuffer, image: sysmem.ImageFormat, value: int) -> None:
    """Fill all planes with one number."""
    for plane in memory.planes(image):
        plane[:] = value


# --- shared memory --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixel_format", SHARED, ids=lambda f: F(f).name)
def test_what_is_written_on_either_side_shows_on_the_other(
    memory: sysmem.VmoBuffer, pixel_format: F
) -> None:
    image = image_format(pixel_format)
    plane = memory.planes(image)[0]
    shown = memory.image(image, copy=False)
    assert shown.size == (32, 18)
    plane[5, 7] = 200
    assert np.asarray(shown)[5, 7].flat[0] == 200
    ImageDraw.Draw(shown).point((9, 3), fill=100 if shown.mode == "L" else (100, 0, 0, 0))
    assert plane[3, 9].flat[0] == 100
    shown.paste(50 if shown.mode == "L" else (50, 0, 0, 0), (0, 0, 4, 4))
    assert plane[2, 2].flat[0] == 50


def test_without_the_right_to_write_only_the_image_changes(memory: sysmem.VmoBuffer) -> None:
    image = image_format(F.L8)
    written(memory, image, 10)
    with closing(read_only(memory)) as other:
        shown = other.image(image, copy=False)
    memory.planes(image)[0][0, 0] = 11
    assert shown.getpixel((0, 0)) == 11
    shown.putpixel((0, 0), 99)
    assert (shown.getpixel((0, 0)), memory.planes(image)[0][0, 0]) == (99, 11)


def test_a_part_of_an_image_is_shared_where_its_rows_end_in_the_memory() -> None:
    image = image_format(F.R8G8B8A8, display_rect=(4, 2, 8, 4))
    size = image.byte_size()
    assert size is not None
    with closing(buffer(size)) as exact:
        written(exact, image, 9)
        assert exact.image(image, copy=False).size == (8, 4)
        last = image_format(F.R8G8B8A8, display_rect=(4, 14, 8, 4))
        written(exact, last, 8)
        assert exact.image(last).getpixel((0, 0)) == (8, 8, 8, 8)
        with pytest.raises(ValueError, match="Pillow needs whole rows"):
            exact.image(last, copy=False)


def test_a_copy_is_one(memory: sysmem.VmoBuffer) -> None:
    image = image_format(F.L8)
    written(memory, image, 10)
    shown = memory.image(image, copy=True)
    written(memory, image, 20)
    assert shown.getpixel((0, 0)) == 10
    with pytest.raises(ValueError, match=r"can share the memory of R8G8B8A8, .*not of B8G8R8A8"):
        memory.image(image_format(F.B8G8R8A8), copy=False)


def test_an_image_outlives_the_buffer_and_the_collection(allocator: blocking.Allocator) -> None:
    with allocator.allocate_non_shared_collection() as collection:
        collection.set_constraints(
            sysmem.constraints("R8G8B8A8 32x18", cpu="read often, write often", hold=1)
        )
        with collection.wait_for_all_buffers_allocated(timeout=20) as info:
            info.buffers[0].planes()[0][:] = 77
            shown = info.buffers[0].image()
            tracking = collection.attach_lifetime_tracking()
            collection.sync(timeout=20)
    with tracking:
        assert not tracking.wait_closed(0)
        assert shown.getpixel((31, 17)) == (77, 77, 77, 77)
        del shown
        gc.collect()
        assert tracking.wait_closed(20)


def test_what_has_no_rows_or_no_settings_is_refused(memory: sysmem.VmoBuffer) -> None:
    tiled = sysmem.ImageFormat(
        F.B8G8R8A8, sysmem.SizeU(32, 18), 512, PixelFormatModifier.INTEL_I915_X_TILED
    )
    with pytest.raises(ValueError, match="B8G8R8A8 INTEL_I915_X_TILED has no planes of rows"):
        memory.image(tiled)
    with pytest.raises(ValueError, match="settings of this buffer are not known"):
        memory.image()


# --- colours --------------------------------------------------------------------------------------------------------


def packed(bits: list[tuple[int, int]], dtype: str) -> NDArray[Any]:
    """Return pixels with the picture's colours. `bits` has the lowest bit and the number of bits of each channel."""
    pixels = np.zeros((18, 32), np.uint32)
    for channel, (shift, width) in enumerate(bits):
        greatest = (1 << width) - 1
        value = np.rint(picture()[..., channel].astype(float) / 255 * greatest).astype(np.uint32)
        pixels |= value << shift
    return pixels.astype(dtype)


def write_picture(memory: sysmem.VmoBuffer, image: sysmem.ImageFormat) -> None:
    """Write the picture as the format's description requires (`docs/spec/image-formats.md`, section 1.1)."""
    planes = memory.planes(image)
    colours = picture()
    match image.pixel_format:
        case F.R8G8B8A8 | F.R8G8B8X8 | F.R8G8B8:
            planes[0][..., :3] = colours
        case F.B8G8R8A8 | F.B8G8R8X8 | F.B8G8R8:
            planes[0][..., 2::-1] = colours
        case F.R8G8:
            planes[0][:] = colours[..., :2]
        case F.R5G6B5:
            planes[0][:] = packed([(11, 5), (5, 6), (0, 5)], "<u2")
        case F.R3G3B2:
            planes[0][:] = packed([(5, 3), (2, 3), (0, 2)], "u1")
        case F.R2G2B2X2:
            planes[0][:] = packed([(6, 2), (4, 2), (2, 2)], "u1")
        case F.A2R10G10B10:
            planes[0][:] = packed([(20, 10), (10, 10), (0, 10)], "<u4")
        case F.A2B10G10R10:
            planes[0][:] = packed([(0, 10), (10, 10), (20, 10)], "<u4")
        case F.L8 | F.R8:
            planes[0][:] = colours[..., 0]
        case _:
            write_ycbcr(image.pixel_format, planes, colours)


def write_ycbcr(pixel_format: F, planes: list[NDArray[Any]], colours: NDArray[Any]) -> None:
    """Write the picture in Rec. 709, limited range."""
    red, green, blue = np.moveaxis(colours.astype(float), -1, 0)
    brightness = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    y = 16 + brightness * 219 / 255
    cb = 128 + (blue - brightness) / 1.8556 * 224 / 255
    cr = 128 + (red - brightness) / 1.5748 * 224 / 255
    match pixel_format:
        case F.NV12:
            planes[0][:], planes[1][..., 0], planes[1][..., 1] = y, cb[::2, ::2], cr[::2, ::2]
        case F.P010:
            planes[0][:] = np.rint(y * 4).astype(np.uint16) << 6
            planes[1][..., 0] = np.rint(cb[::2, ::2] * 4).astype(np.uint16) << 6
            planes[1][..., 1] = np.rint(cr[::2, ::2] * 4).astype(np.uint16) << 6
        case F.I420:
            planes[0][:], planes[1][:], planes[2][:] = y, cb[::2, ::2], cr[::2, ::2]
        case F.YV12:
            planes[0][:], planes[1][:], planes[2][:] = y, cr[::2, ::2], cb[::2, ::2]
        case F.YUY2:
            planes[0][..., 0], planes[0][..., 2] = y[:, ::2], y[:, 1::2]
            planes[0][..., 1], planes[0][..., 3] = cb[:, ::2], cr[:, ::2]
        case F.M420:
            planes[0][0::3], planes[0][1::3] = y[0::2], y[1::2]
            planes[0][2::3, 0::2], planes[0][2::3, 1::2] = cb[::2, ::2], cr[::2, ::2]


@pytest.mark.parametrize("pixel_format", PIXELS, ids=lambda f: F(f).name)
def test_the_colours_of_every_format(memory: sysmem.VmoBuffer, pixel_format: F) -> None:
    image = image_format(pixel_format)
    write_picture(memory, image)
    shown = memory.image(image, copy=True)
    found = np.asarray(shown, np.int16)
    expected = picture().astype(np.int16)
    if shown.mode == "L":
        expected = expected[..., 0]
    elif pixel_format is F.R8G8:
        expected[..., 2] = 0
    if shown.mode == "RGBA":
        assert (found[..., 3] == 0).all()
        found = found[..., :3]
    coarse = {F.R2G2B2X2: 45, F.R3G3B2: 45, F.R5G6B5: 5}
    assert np.abs(found - expected).max() <= coarse.get(pixel_format, 12 if len(
        memory.planes(image)) > 1 or pixel_format in (F.M420, F.YUY2) else 1)  # fmt: skip


def test_alpha_of_packed_pixels_is_kept(memory: sysmem.VmoBuffer) -> None:
    image = image_format(F.A2R10G10B10)
    memory.planes(image)[0][:] = 2 << 30
    assert memory.image(image).getpixel((0, 0)) == (0, 0, 0, 170)


@pytest.mark.parametrize(
    ("space", "black", "white"),
    [
        (ColorSpace.REC709, 16, 235),
        (ColorSpace.REC601_NTSC, 16, 235),
        (ColorSpace.REC601_PAL_FULL_RANGE, 0, 255),
    ],
)
def test_black_and_white_are_those_of_the_colour_space(
    memory: sysmem.VmoBuffer, space: ColorSpace, black: int, white: int
) -> None:
    image = image_format(F.NV12, color_space=space)
    luma, chroma = memory.planes(image)
    chroma[:] = 128
    luma[:, :16], luma[:, 16:] = black, white
    shown = memory.image(image)
    assert [shown.getpixel((x, 0)) for x in (0, 31)] == [(0, 0, 0), (255, 255, 255)]


def test_unknown_colours_are_refused(memory: sysmem.VmoBuffer) -> None:
    image = image_format(F.NV12, color_space=ColorSpace.PASSTHROUGH)
    with pytest.raises(ValueError, match="PASSTHROUGH does not define Y, Cb and Cr"):
        memory.image(image)


def test_an_odd_part_has_its_colours(memory: sysmem.VmoBuffer) -> None:
    whole = image_format(F.NV12)
    write_picture(memory, whole)
    part = image_format(F.NV12, display_rect=(4, 2, 7, 5))
    found = np.asarray(memory.image(part), np.int16)
    assert found.shape == (5, 7, 3)
    assert np.abs(found - picture()[2:7, 4:11]).max() <= 12


def test_saving_a_shared_image_writes_what_the_buffer_holds(
    memory: sysmem.VmoBuffer, tmp_path: Any
) -> None:
    image = image_format(F.R8G8B8A8)
    write_picture(memory, image)
    memory.planes(image)[0][..., 3] = 255
    memory.image(image).save(tmp_path / "shown.png")
    with Image.open(tmp_path / "shown.png") as opened:
        np.testing.assert_array_equal(np.asarray(opened)[..., :3], picture())
