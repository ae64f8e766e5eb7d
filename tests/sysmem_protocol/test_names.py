"""Foreign names, against the headers that define their numbers (Debian's `libdrm-dev` and `linux-libc-dev`)."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.names import COLORS, FORMATS

DRM_HEADERS = (Path("/usr/include/libdrm/drm_fourcc.h"), Path("/usr/include/drm/drm_fourcc.h"))
V4L2_HEADERS = (Path("/usr/include/linux/videodev2.h"),)

#: The macros by their bytes in memory, without DRM_FORMAT_ and V4L2_PIX_FMT_.
MACROS = {
    "R8G8B8A8": ("ABGR8888", "RGBA32"),
    "R8G8B8X8": ("XBGR8888", "RGBX32"),
    "B8G8R8A8": ("ARGB8888", "ABGR32"),
    "B8G8R8X8": ("XRGB8888", "XBGR32"),
    "B8G8R8": ("RGB888", "BGR24"),
    "R8G8B8": ("BGR888", "RGB24"),
    "R5G6B5": ("RGB565", "RGB565"),
    "R3G3B2": ("RGB332", "RGB332"),
    "L8": (None, "GREY"),
    "R8": ("R8", "GREY"),
    "R8G8": ("GR88", None),
    "A2R10G10B10": ("ARGB2101010", "ARGB2101010"),
    "A2B10G10R10": ("ABGR2101010", "ABGR2101010"),
    "NV12": ("NV12", "NV12"),
    "I420": ("YUV420", "YUV420"),
    "YV12": ("YVU420", "YVU420"),
    "YUY2": ("YUYV", "YUYV"),
    "P010": ("P010", "P010"),
    "M420": (None, "M420"),
}
#: In headers from Linux 6.3 on, and in none so far.
NEWER_THAN_DEBIAN_12 = {"ARGB2101010", "ABGR2101010"}


def header(places: tuple[Path, ...], package: str) -> str:
    for place in places:
        if place.exists():
            return place.read_text()
    pytest.skip(f"{places[0]} isn't there: apt-get install {package}")


def fourccs(text: str) -> dict[str, int]:
    """The four-character codes that a header defines, by macro."""
    pattern = r"#define\s+(\w+)\s+\w*fourcc(?:_code)?\('(.)',\s*'(.)',\s*'(.)',\s*'(.)'\)"
    return {
        name: sum(ord(character) << 8 * index for index, character in enumerate(characters))
        for name, *characters in re.findall(pattern, text)
    }


def test_drm_fourccs_are_those_of_the_header() -> None:
    defined = fourccs(header(DRM_HEADERS, "libdrm-dev"))

    expected = {
        name: macro and defined[f"DRM_FORMAT_{macro}"] for name, (macro, _) in MACROS.items()
    }

    assert {name: PixelFormat[name].drm_fourcc for name in FORMATS} == expected


def test_v4l2_fourccs_are_those_of_the_header() -> None:
    defined = fourccs(header(V4L2_HEADERS, "linux-libc-dev"))
    names = {name: macro for name, (_, macro) in MACROS.items() if macro}

    found = {name for name, macro in names.items() if f"V4L2_PIX_FMT_{macro}" in defined}

    assert {names[name] for name in names.keys() - found} <= NEWER_THAN_DEBIAN_12
    for name in found:
        assert PixelFormat[name].v4l2_fourcc == defined[f"V4L2_PIX_FMT_{names[name]}"], name


def test_colour_spaces_have_the_numbers_of_the_header() -> None:
    text = header(V4L2_HEADERS, "linux-libc-dev")
    defined = {
        name: int(number)
        for name, number in re.findall(r"(V4L2_(?:COLORSPACE|QUANTI|XFER)\w+)\s+= (\d+)", text)
    }
    expected = {
        "SRGB": ("SRGB", "DEFAULT", "DEFAULT"),
        "REC601_NTSC": ("SMPTE170M", "DEFAULT", "DEFAULT"),
        "REC601_NTSC_FULL_RANGE": ("SMPTE170M", "FULL_RANGE", "DEFAULT"),
        "REC601_PAL": ("470_SYSTEM_BG", "DEFAULT", "DEFAULT"),
        "REC601_PAL_FULL_RANGE": ("470_SYSTEM_BG", "FULL_RANGE", "DEFAULT"),
        "REC709": ("REC709", "DEFAULT", "DEFAULT"),
        "REC2020": ("BT2020", "DEFAULT", "DEFAULT"),
        "REC2100": ("BT2020", "DEFAULT", "SMPTE2084"),
    }
    assert expected.keys() == COLORS.keys()
    for name, (colorspace, quantization, xfer_func) in expected.items():
        space = ColorSpace[name]
        assert space.v4l2_colorspace == defined[f"V4L2_COLORSPACE_{colorspace}"], name
        assert space.v4l2_quantization == defined[f"V4L2_QUANTIZATION_{quantization}"], name
        assert space.v4l2_xfer_func == defined[f"V4L2_XFER_FUNC_{xfer_func}"], name


def test_modifiers_have_drm_s_numbers_where_drm_has_the_layout() -> None:
    text = header(DRM_HEADERS, "libdrm-dev")
    afbc = {
        name: eval(value.replace("ULL", ""), {})
        for name, value in re.findall(r"#define AFBC_FORMAT_MOD_(\w+)\s+(\(\d+ULL.*?\))", text)
    }
    vendors = {
        name: int(number, 16)
        for name, number in re.findall(
            r"#define DRM_FORMAT_MOD_VENDOR_(\w+)\s+(0x[0-9a-f]+|0)", text
        )
    }
    intel = {
        name: (vendors["INTEL"] << 56) + int(number)
        for name, number in re.findall(
            r"#define I915_FORMAT_MOD_(\w+)\s+fourcc_mod_code\(INTEL, (\d+)\)", text
        )
    }
    arm = vendors["ARM"] << 56
    block = arm | afbc["BLOCK_SIZE_16x16"]

    assert {
        PixelFormatModifier.INTEL_I915_X_TILED: intel["X_TILED"],
        PixelFormatModifier.INTEL_I915_Y_TILED: intel["Y_TILED"],
        PixelFormatModifier.INTEL_I915_YF_TILED: intel["Yf_TILED"],
        PixelFormatModifier.ARM_AFBC_16X16: block,
        PixelFormatModifier.ARM_AFBC_32X8: arm | afbc["BLOCK_SIZE_32x8"],
        PixelFormatModifier.ARM_AFBC_16X16_SPLIT_BLOCK_SPARSE_YUV: block
        | afbc["SPLIT"]
        | afbc["SPARSE"]
        | afbc["YTR"],
    } == {
        modifier: int(modifier)
        for modifier in PixelFormatModifier
        # Bits of its own: transaction elimination, tiled headers and Intel's colour control surfaces.
        if modifier >> 56 in (vendors["INTEL"], vendors["ARM"]) and not modifier & 0x0100_3000
    }


@pytest.mark.parametrize("name", ["INVALID", "MJPEG", "R2G2B2X2", "DO_NOT_CARE"])
def test_formats_that_nobody_else_has_are_without_names(name: str) -> None:
    member = PixelFormat[name]
    assert member.drm_fourcc is None
    assert member.drm_name is None
    assert member.v4l2_fourcc is None
    assert member.gst_format is None
    assert member.ffmpeg_name is None


@pytest.mark.parametrize("name", ["INVALID", "PASSTHROUGH", "DO_NOT_CARE"])
def test_colour_spaces_that_say_nothing_about_colours_are_without_names(name: str) -> None:
    member = ColorSpace[name]
    assert member.v4l2_colorspace is None
    assert member.v4l2_quantization is None
    assert member.v4l2_xfer_func is None
    assert member.gst_colorimetry is None
    assert member.ffmpeg is None


def test_a_drm_name_is_the_four_characters_of_the_number() -> None:
    assert PixelFormat.NV12.drm_name == "NV12"
    assert PixelFormat.R8.drm_name == "R8  "
    assert PixelFormat.NV12.drm_fourcc == 0x3231564E
