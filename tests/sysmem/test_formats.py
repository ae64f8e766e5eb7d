"""`sysmem.formats`: formats by the names of other software, compared with the lists of the installed versions."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sysmem import ColorSpace, ImageFormat, PixelFormat, PixelFormatModifier, SizeU, formats
from sysmem_protocol.formats import PIXELS

from ..gstreamer import run_with_gstreamer

LINEAR = PixelFormatModifier.LINEAR
#: GStreamer 1.22's description of formats (size, strides and offsets of 64x32 pixels) and of colours.
GSTREAMER = json.loads(Path(__file__).with_name("gstreamer.json").read_text())
F = PixelFormat


@pytest.mark.parametrize("member", [each for each in PixelFormat if each is not F.R8])
def test_each_name_leads_back_to_its_format(member: PixelFormat) -> None:
    if member.drm_fourcc is not None:
        assert formats.from_drm(member.drm_fourcc) == (member, LINEAR)
    if member.drm_name is not None:
        assert formats.from_drm(member.drm_name) == (member, LINEAR)
    if member.v4l2_fourcc is not None:
        assert formats.from_v4l2(member.v4l2_fourcc) == (member, LINEAR)
    if member.gst_format is not None:
        assert formats.from_gst(member.gst_format) == (member, LINEAR)
    if member.ffmpeg_name is not None:
        assert formats.from_ffmpeg(member.ffmpeg_name) == (member, LINEAR)


def test_grey_of_others_is_l8_and_drm_s_r8_is_r8() -> None:
    assert formats.from_v4l2("GREY")[0] is F.L8
    assert formats.from_gst("GRAY8")[0] is F.L8
    assert formats.from_ffmpeg("gray")[0] is F.L8
    assert formats.from_drm("R8")[0] is formats.from_drm(0x20203852)[0] is F.R8


@pytest.mark.parametrize("modifier", [m for m in PixelFormatModifier if m >> 56 in (0, 1, 8)])
def test_a_modifier_is_drm_s_number(modifier: PixelFormatModifier) -> None:
    if modifier in (PixelFormatModifier.DO_NOT_CARE, PixelFormatModifier.INVALID):
        with pytest.raises(ValueError, match="does not exist with the modifier"):
            formats.from_drm("XR24", modifier)
    else:
        assert formats.from_drm("XR24", int(modifier)) == (F.B8G8R8X8, modifier)


def test_a_modifier_without_a_name_stays_a_number() -> None:
    assert formats.from_drm("XR24", 0x0800000000000012) == (F.B8G8R8X8, 0x0800000000000012)


def test_numbers_of_numpy_are_numbers_and_other_types_are_refused() -> None:
    from_drm: Any = formats.from_drm
    from_v4l2: Any = formats.from_v4l2
    assert from_v4l2(np.uint32(0x3231564E)) == (F.NV12, LINEAR)
    unnamed = 0x0800000000000012
    assert from_drm(np.uint32(0x34325258), np.uint64(unnamed)) == (F.B8G8R8X8, unnamed)
    with pytest.raises(TypeError, match="a fourcc is an int or four characters, not NoneType"):
        from_drm(None)


def test_an_unknown_name_is_refused_with_the_near_ones() -> None:
    with pytest.raises(ValueError, match=r"no pixel format has the DRM name 'NV21'.* NV12 \(NV12"):
        formats.from_drm(0x3132564E)
    with pytest.raises(ValueError, match=r"V4L2 name 'MJPG'; similar names: "):
        formats.from_v4l2("MJPG")
    with pytest.raises(ValueError, match=r"GStreamer name 'nv12'; similar names: NV12"):
        formats.from_gst("nv12")
    with pytest.raises(
        ValueError, match=r"FFmpeg name 'yuvj420p'; similar names: yuv420p \(I420\)"
    ):
        formats.from_ffmpeg("yuvj420p")


def test_a_name_that_is_near_to_nothing_is_refused_with_all() -> None:
    with pytest.raises(ValueError, match=r"similar names: rgba .*, p010le \(P010\)$"):
        formats.from_ffmpeg("?")


@pytest.mark.parametrize("number", [0, -1, 1 << 40, 0xB231564E])
def test_a_number_that_is_no_code_is_shown_in_hexadecimal(number: int) -> None:
    with pytest.raises(ValueError, match=hex(number)):
        formats.from_drm(number)


def test_an_unsupported_modifier_is_refused_with_those_of_its_vendor() -> None:
    with pytest.raises(
        ValueError, match=r"0x0100000000000009; similar .*INTEL_I915_X_TILED"
    ) as tiled:
        formats.from_drm("NV12", 0x0100000000000009)
    assert "AFBC" not in str(tiled.value)
    with pytest.raises(ValueError, match=r"0x0200000000000001; similar ones: LINEAR"):
        formats.from_drm("NV12", 0x0200000000000001)


@pytest.mark.parametrize("space", [s for s in ColorSpace if s.ffmpeg])
def test_a_colour_space_is_found_by_what_others_say_of_it(space: ColorSpace) -> None:
    assert space.ffmpeg
    assert space.gst_colorimetry
    assert space.v4l2_colorspace is not None
    assert space.v4l2_quantization is not None
    assert space.v4l2_xfer_func is not None

    assert formats.color_space_from_ffmpeg(**space.ffmpeg._asdict()) is space
    assert formats.color_space_from_gst(space.gst_colorimetry) is space
    found = formats.color_space_from_v4l2(
        space.v4l2_colorspace, space.v4l2_quantization, space.v4l2_xfer_func
    )
    assert found is space


def test_colours_without_a_colour_space_are_none() -> None:
    assert formats.color_space_from_v4l2(9) is None
    assert formats.color_space_from_gst("2:3:5:2") is None
    assert formats.color_space_from_ffmpeg(matrix="bt709", range="pc") is None
    assert formats.color_space_from_v4l2(8, 1) is ColorSpace.SRGB  # RGB always has the full range


def test_ffmpeg_s_names_of_formats_are_those_of_pyav() -> None:
    av = pytest.importorskip("av", reason="PyAV isn't installed: pip install av")
    for member in PixelFormat:
        if member.ffmpeg_name:
            assert av.VideoFormat(member.ffmpeg_name).name == member.ffmpeg_name


def test_ffmpeg_s_names_of_colours_are_known_to_its_library() -> None:
    av = pytest.importorskip("av", reason="PyAV isn't installed: pip install av")
    library = next(Path(av.__file__).parent.parent.glob("av.libs/libavutil-*.so*"), None)
    if library is None:
        pytest.skip("this PyAV didn't bring its own libavutil")
    util = ctypes.CDLL(str(library))
    for space in ColorSpace:
        if space.ffmpeg:
            assert util.av_color_primaries_from_name(space.ffmpeg.primaries.encode()) >= 0
            assert util.av_color_transfer_from_name(space.ffmpeg.transfer.encode()) >= 0
            assert util.av_color_space_from_name(space.ffmpeg.matrix.encode()) >= 0
            assert util.av_color_range_from_name(space.ffmpeg.range.encode()) > 0


def test_what_is_kept_of_gstreamer_is_what_it_says() -> None:
    told = run_with_gstreamer(
        """
        import json, sys
        kept = json.loads(sys.argv[1])
        formats = {}
        for name in kept["formats"]:
            info = GstVideo.VideoInfo()
            assert info.set_format(GstVideo.VideoFormat.from_string(name), 64, 32), name
            planes = info.finfo.n_planes
            formats[name] = [info.size, list(info.stride)[:planes], list(info.offset)[:planes]]
        colorimetries = {}
        for text in kept["colorimetries"]:
            colorimetry = GstVideo.VideoColorimetry()
            assert colorimetry.from_string(text), text
            colorimetries[text] = [
                each.value_nick for each in (
                    colorimetry.primaries, colorimetry.transfer, colorimetry.matrix, colorimetry.range
                )
            ]
        print(json.dumps({"formats": formats, "colorimetries": colorimetries}))
        """,
        json.dumps(GSTREAMER),
    )
    assert json.loads(told) == GSTREAMER


def test_gstreamer_has_the_formats_and_the_same_planes() -> None:
    """The layout is compared too: GStreamer's strides and offsets for a size that needs no padding."""
    found = {member: member.gst_format for member in PixelFormat if member.gst_format}
    assert set(found.values()) == set(GSTREAMER["formats"])
    for member, name in found.items():
        size, strides, offsets = GSTREAMER["formats"][name]
        pixel = PIXELS[member]
        image = ImageFormat(member, SizeU(64, 32), 64 * pixel.stride_bytes)
        assert image.byte_size() == size, name
        planes = range(pixel.planes)
        assert [image.plane_row_bytes(plane) for plane in planes] == strides, name
        assert [image.plane_byte_offset(plane) for plane in planes] == offsets, name


def test_gstreamer_has_the_colours() -> None:
    texts = {space.name: space.gst_colorimetry for space in ColorSpace if space.gst_colorimetry}
    assert {name: GSTREAMER["colorimetries"][text] for name, text in texts.items()} == {
        "SRGB": ["bt709", "srgb", "rgb", "0-255"],
        "REC601_NTSC": ["smpte170m", "bt601", "bt601", "16-235"],
        "REC601_NTSC_FULL_RANGE": ["smpte170m", "bt601", "bt601", "0-255"],
        "REC601_PAL": ["bt470bg", "bt601", "bt601", "16-235"],
        "REC601_PAL_FULL_RANGE": ["bt470bg", "bt601", "bt601", "0-255"],
        "REC709": ["bt709", "bt709", "bt709", "16-235"],
        "REC2020": ["bt2020", "bt2020-10", "bt2020", "16-235"],
        "REC2100": ["bt2020", "smpte2084", "bt2020", "16-235"],
    }
