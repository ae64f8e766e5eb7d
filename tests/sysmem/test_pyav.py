"""Frames of PyAV over buffers: the shared memory, its lifetime, and every refusal."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import closing
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import sysmem
import sysmem.av
from sysmem import ColorSpace, PixelFormat, PixelFormatModifier, blocking
from sysmem._pyav import _PACKED, _PLANAR
from sysmem_protocol.formats import PIXELS, supports_color_space

from .images import buffer, image_format, picture, read_only

av = pytest.importorskip("av", reason="PyAV isn't installed: pip install av")

F = PixelFormat
KNOWN = [each for each in F if each.ffmpeg_name or each is F.YV12]
SHARED = [each for each in KNOWN if each in _PLANAR | _PACKED]


@pytest.fixture
def memory() -> Iterator[sysmem.VmoBuffer]:
    with closing(buffer(start=4096)) as made:
        yield made


def frame_planes(frame: Any, model: list[NDArray[Any]]) -> list[NDArray[Any]]:
    return [
        np.ndarray(like.shape, like.dtype, memoryview(p), 0, (p.line_size, *like.strides[1:]))
        for p, like in zip(frame.planes, model, strict=True)
    ]


def in_ffmpeg_s_order(planes: list[NDArray[Any]], pixel_format: F) -> list[NDArray[Any]]:
    return [planes[0], planes[2], planes[1]] if pixel_format is F.YV12 else planes


# --- video_frame ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixel_format", KNOWN, ids=lambda f: f.name)
@pytest.mark.parametrize("copy", [None, True])
def test_a_frame_has_the_image_s_planes(
    memory: sysmem.VmoBuffer, pixel_format: F, copy: bool | None
) -> None:
    image = image_format(pixel_format)
    planes = in_ffmpeg_s_order(memory.planes(image), pixel_format)
    for number, plane in enumerate(planes):
        plane[:] = np.arange(plane.size, dtype=plane.dtype).reshape(plane.shape) + 7 * number
    frame = memory.video_frame(image, pts=5, time_base=Fraction(1, 30), copy=copy)

    assert (frame.width, frame.height, frame.pts) == (32, 18, 5)
    assert frame.time_base == Fraction(1, 30)
    for found, expected in zip(frame_planes(frame, planes), planes, strict=True):
        np.testing.assert_array_equal(found, expected)
    # Changes on either side are visible on the other, or not.
    shares = not copy and pixel_format in SHARED
    for found, plane in zip(frame_planes(frame, planes), planes, strict=True):
        plane.flat[0] ^= 1
        assert (found.flat[0] == plane.flat[0]) is np.bool_(shares)
        found.flat[-1] ^= 1
        assert (found.flat[-1] == plane.flat[-1]) is np.bool_(shares)


@pytest.mark.parametrize("pixel_format", KNOWN, ids=lambda f: f.name)
def test_a_frame_that_would_be_a_copy_is_refused_if_asked(
    memory: sysmem.VmoBuffer, pixel_format: F
) -> None:
    if pixel_format in SHARED:
        memory.video_frame(image_format(pixel_format), copy=False)
    else:
        with pytest.raises(
            ValueError, match=f"can share the memory of .*not of {pixel_format.name}"
        ):
            memory.video_frame(image_format(pixel_format), copy=False)


@pytest.mark.parametrize("pixel_format", [F.M420, F.R8G8, F.R2G2B2X2], ids=lambda f: f.name)
def test_a_format_that_ffmpeg_has_not_is_refused(memory: sysmem.VmoBuffer, pixel_format: F) -> None:
    image = image_format(pixel_format)
    with pytest.raises(ValueError, match=f"FFmpeg has no format like {pixel_format.name}"):
        memory.video_frame(image)
    with pytest.raises(ValueError, match=f"FFmpeg has no format like {pixel_format.name}"):
        memory.fill_from(av.VideoFrame(2, 2, "rgb24"), image)


def test_what_has_no_rows_or_does_not_fit_is_refused(memory: sysmem.VmoBuffer) -> None:
    tiled = sysmem.ImageFormat(
        F.NV12, sysmem.SizeU(32, 18), 512, PixelFormatModifier.INTEL_I915_X_TILED
    )
    with pytest.raises(ValueError, match="NV12 INTEL_I915_X_TILED has no planes of rows"):
        memory.video_frame(tiled)
    large = image_format(F.NV12, 320, 240)
    with pytest.raises(ValueError, match="doesn't fit"):
        memory.video_frame(large)
    with pytest.raises(ValueError, match="settings of this buffer are not known"):
        memory.video_frame()


@pytest.mark.parametrize("space", [s for s in ColorSpace if s.ffmpeg], ids=lambda s: s.name)
def test_a_frame_has_the_colour_space_of_the_image(
    memory: sysmem.VmoBuffer, space: ColorSpace
) -> None:
    pixel_format = next(f for f in (F.R8G8B8, F.NV12, F.P010) if supports_color_space(f, space))
    frame = memory.video_frame(image_format(pixel_format, color_space=space))
    expected = {
        ColorSpace.SRGB: (1, 13, 0, 2),
        ColorSpace.REC601_NTSC: (6, 6, 6, 1),
        ColorSpace.REC601_NTSC_FULL_RANGE: (6, 6, 6, 2),
        ColorSpace.REC601_PAL: (5, 6, 5, 1),
        ColorSpace.REC601_PAL_FULL_RANGE: (5, 6, 5, 2),
        ColorSpace.REC709: (1, 1, 1, 1),
        ColorSpace.REC2020: (9, 14, 9, 1),
        ColorSpace.REC2100: (9, 16, 9, 1),
    }
    codes = (frame.color_primaries, frame.color_trc, frame.colorspace, frame.color_range)
    assert codes == expected[space]


def test_colours_that_nobody_told_stay_unknown(memory: sysmem.VmoBuffer) -> None:
    frame = memory.video_frame(image_format(F.NV12, color_space=ColorSpace.PASSTHROUGH))
    assert (frame.colorspace, frame.color_range) == (2, 0)


def test_a_part_of_an_image_is_a_frame(memory: sysmem.VmoBuffer) -> None:
    image = image_format(F.NV12, display_rect=(4, 2, 16, 8))
    memory.planes(image)[0][:] = np.arange(128).reshape(8, 16)
    frame = memory.video_frame(image)
    assert (frame.width, frame.height) == (16, 8)
    np.testing.assert_array_equal(frame.to_ndarray()[:8], np.arange(128).reshape(8, 16))


def test_without_the_right_to_write_a_frame_shares_what_is_read_only(
    memory: sysmem.VmoBuffer,
) -> None:
    image = image_format(F.NV12)
    luma, _ = memory.planes(image)
    luma[:] = 50
    with closing(read_only(memory)) as other:
        frame = other.video_frame(image)
        [seen, _] = frame_planes(frame, memory.planes(image))
        luma[0, 0] = 51
        assert seen[0, 0] == 51
        seen[0, 1] = 99  # a filter that modifies frames in place
        assert luma[0, 1] == 50
        with pytest.raises(ValueError, match="the rights do not allow writing"):
            other.fill_from(frame, image)


def test_a_frame_outlives_the_buffer_the_collection_and_the_daemon(
    allocator: blocking.Allocator, sysmemd: Any
) -> None:
    with allocator.allocate_non_shared_collection() as collection:
        collection.set_constraints(
            sysmem.constraints("NV12 32x18", cpu="read often, write often", hold=1)
        )
        with collection.wait_for_all_buffers_allocated(timeout=20) as info:
            for plane in info.buffers[0].planes():
                plane[:] = 77
            frame = info.buffers[0].video_frame(pts=1)
            assert frame.colorspace == 1
            tracking = collection.attach_lifetime_tracking()
            collection.sync(timeout=20)
    with tracking:
        assert not tracking.wait_closed(0)
        assert (frame.to_ndarray() == 77).all()
        del frame, plane
        gc.collect()
        assert tracking.wait_closed(20)


# --- fill_from ------------------------------------------------------------------------------------------------------


def test_a_frame_of_the_same_kind_is_copied_as_it_is(memory: sysmem.VmoBuffer) -> None:
    image = image_format(F.I420)
    frame = av.VideoFrame.from_ndarray(
        np.arange(27 * 32, dtype=np.uint8).reshape(27, 32), format="yuv420p"
    )
    memory.fill_from(frame, image)
    np.testing.assert_array_equal(memory.video_frame(image).to_ndarray(), frame.to_ndarray())


@pytest.mark.parametrize("pixel_format", KNOWN, ids=lambda f: f.name)
def test_a_frame_of_any_kind_is_converted(memory: sysmem.VmoBuffer, pixel_format: F) -> None:
    """FFmpeg converts RGB into the buffer's format, and this package converts it back."""
    colours = picture(64, 36)
    image = image_format(pixel_format)
    memory.fill_from(av.VideoFrame.from_ndarray(colours, format="rgb24"), image)
    found = np.asarray(memory.image(image).convert("RGB"), np.int16)
    expected = picture().astype(np.int16)
    if PIXELS[pixel_format].color_type.name == "RGB|YUV":  # brightness only
        expected = np.repeat((expected @ [0.299, 0.587, 0.114])[..., None], 3, axis=-1).astype(
            np.int16
        )
    coarse = {F.R3G3B2: 40, F.R5G6B5: 8}
    assert np.abs(found - expected).mean() < coarse.get(pixel_format, 4)


@pytest.mark.parametrize(
    "space",
    [s for s in ColorSpace if s.ffmpeg and s is not ColorSpace.SRGB],
    ids=lambda s: s.name,
)
def test_colours_are_converted_to_those_of_the_buffer(
    memory: sysmem.VmoBuffer, space: ColorSpace
) -> None:
    pixel_format = F.NV12 if supports_color_space(F.NV12, space) else F.P010
    image = image_format(pixel_format, color_space=space)
    memory.fill_from(av.VideoFrame.from_ndarray(picture(), format="rgb24"), image)
    found = np.asarray(memory.image(image), np.int16)
    assert np.abs(found - picture()).mean() < 3


def test_a_frame_that_does_not_say_its_colours_has_those_of_the_buffer(
    memory: sysmem.VmoBuffer,
) -> None:
    luma = np.full((27, 32), 200, np.uint8)
    frame = av.VideoFrame.from_ndarray(luma, format="yuv420p")
    for space in (ColorSpace.REC709, ColorSpace.REC601_PAL_FULL_RANGE):
        image = image_format(F.NV12, color_space=space)
        memory.fill_from(frame, image)
        assert (memory.planes(image)[0] == 200).all()


def test_only_frames_are_taken(memory: sysmem.VmoBuffer) -> None:
    with pytest.raises(TypeError, match=r"expected an av.VideoFrame, not ndarray"):
        memory.fill_from(picture(), image_format(F.NV12))  # type: ignore[arg-type]  # what is refused


# --- encoders -------------------------------------------------------------------------------------------------------


def encoder(name: str) -> Any:
    context = av.CodecContext.create(name, "w")
    context.width, context.height, context.pix_fmt = 32, 18, "yuv420p"
    context.time_base = Fraction(1, 30)
    return context


@pytest.mark.parametrize("name", ["libx264", "mpeg4"])
def test_an_encoder_is_done_with_the_buffer_when_encode_returns(
    memory: sysmem.VmoBuffer, name: str
) -> None:
    if name not in av.codecs_available:
        pytest.skip(f"this PyAV has no {name}")
    image = image_format(F.I420)

    def encoded(overwrite: bool) -> bytes:
        context = encoder(name)
        packets = []
        for number in range(8):
            memory.planes(image)[0][:] = np.arange(32) * 5 + number * 3
            packets += context.encode(memory.video_frame(image, pts=number))
            if overwrite:
                memory.planes(image)[0][:] = 255
        packets += context.encode(None)
        return b"".join(bytes(packet) for packet in packets)

    assert encoded(overwrite=True) == encoded(overwrite=False)


def test_the_constraints_of_an_encoder(allocator: blocking.Allocator) -> None:
    context = encoder("mpeg4")
    context.color_primaries = context.color_trc = context.colorspace = context.color_range = 1
    with (
        allocator.allocate_shared_collection() as token,
        token.duplicate() as other,
        allocator.bind_shared_collection(token) as ours,
        allocator.bind_shared_collection(other) as theirs,
    ):
        ours.set_constraints(sysmem.av.constraints(context, hold=3))
        theirs.set_constraints(sysmem.constraints("NV12, I420 up to 640x480", cpu="write", hold=1))
        with ours.wait_for_all_buffers_allocated(timeout=20) as info:
            assert len(info.buffers) == 4
            assert info.image.pixel_format is F.I420
            assert info.image.size == sysmem.SizeU(32, 18)
            assert info.image.bytes_per_row == 64
            assert info.image.color_space is ColorSpace.REC709
            packets = context.encode(info.buffers[0].video_frame(pts=0))
            assert packets + context.encode(None)


def test_the_constraints_of_a_decoder_and_of_one_that_knows_nothing_yet() -> None:
    decoder = av.CodecContext.create("mjpeg", "r")
    with pytest.raises(ValueError, match="has no image format yet: set width, height"):
        sysmem.av.constraints(decoder)
    decoder.width, decoder.height, decoder.pix_fmt = 32, 18, "yuvj420p"
    made = sysmem.av.constraints(decoder)
    assert made.usage == sysmem.BufferUsage(cpu=sysmem.CpuUsage.WRITE_OFTEN)
    [image] = made.image_format_constraints or ()
    assert (image.pixel_format, image.color_spaces) == (F.I420, [ColorSpace.DO_NOT_CARE])
    decoder.pix_fmt = "yuv444p"
    with pytest.raises(ValueError, match="FFmpeg name 'yuv444p'; similar names: yuv420p"):
        sysmem.av.constraints(decoder)
