"""Names in other software, compared with the numbers in the headers that define them.

The headers are Debian's `libdrm-dev` and `linux-libc-dev`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.names import COLORS, FORMATS

from . import headers

DRM, V4L2 = headers.kept()[headers.DRM.name], headers.kept()[headers.V4L2.name]


#: The macros in the headers, without DRM_FORMAT_ and V4L2_PIX_FMT_. Formats correspond by their bytes in memory.
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
#: In V4L2's headers from Linux 6.3 on.
NEWER_THAN_DEBIAN_12 = {"ARGB2101010", "ABGR2101010"}


@pytest.mark.parametrize(
    ("path", "read", "package"),
    [(headers.DRM, headers.drm, "libdrm-dev"), (headers.V4L2, headers.v4l2, "linux-libc-dev")],
    ids=["DRM", "V4L2"],
)
def test_the_numbers_that_are_kept_are_those_of_the_header(
    path: Path, read: Callable[[str], headers.Numbers], package: str
) -> None:
    if not path.exists():
        pytest.skip(f"{path} isn't there: apt-get install {package}")
    assert headers.kept()[path.name].items() <= read(path.read_text()).items()


def test_drm_fourccs_are_those_of_the_header() -> None:
    expected = {name: macro and DRM[f"DRM_FORMAT_{macro}"] for name, (macro, _) in MACROS.items()}
    assert {name: PixelFormat[name].drm_fourcc for name in FORMATS} == expected


def test_v4l2_fourccs_are_those_of_the_header() -> None:
    names = {name: macro for name, (_, macro) in MACROS.items() if macro}
    found = {name for name, macro in names.items() if f"V4L2_PIX_FMT_{macro}" in V4L2}
    assert {names[name] for name in names.keys() - found} == NEWER_THAN_DEBIAN_12
    for name in found:
        assert PixelFormat[name].v4l2_fourcc == V4L2[f"V4L2_PIX_FMT_{names[name]}"], name


def test_colour_spaces_have_the_numbers_of_the_header() -> None:
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
        assert space.v4l2_colorspace == V4L2[f"V4L2_COLORSPACE_{colorspace}"], name
        assert space.v4l2_quantization == V4L2[f"V4L2_QUANTIZATION_{quantization}"], name
        assert space.v4l2_xfer_func == V4L2[f"V4L2_XFER_FUNC_{xfer_func}"], name


def test_modifiers_have_drm_s_numbers_where_drm_has_the_layout() -> None:
    intel, arm = (DRM[f"DRM_FORMAT_MOD_VENDOR_{vendor}"] for vendor in ("INTEL", "ARM"))
    afbc = {
        name: arm << 56 | DRM[f"AFBC_FORMAT_MOD_{name}"]
        for name in ("BLOCK_SIZE_16x16", "BLOCK_SIZE_32x8", "SPLIT", "SPARSE", "YTR")
    }
    tiled = {name: intel << 56 | DRM[f"I915_FORMAT_MOD_{name}_TILED"] for name in ("X", "Y", "Yf")}
    assert {
        PixelFormatModifier.INTEL_I915_X_TILED: tiled["X"],
        PixelFormatModifier.INTEL_I915_Y_TILED: tiled["Y"],
        PixelFormatModifier.INTEL_I915_YF_TILED: tiled["Yf"],
        PixelFormatModifier.ARM_AFBC_16X16: afbc["BLOCK_SIZE_16x16"],
        PixelFormatModifier.ARM_AFBC_32X8: afbc["BLOCK_SIZE_32x8"],
        PixelFormatModifier.ARM_AFBC_16X16_SPLIT_BLOCK_SPARSE_YUV: afbc["BLOCK_SIZE_16x16"]
        | afbc["SPLIT"]
        | afbc["SPARSE"]
        | afbc["YTR"],
    } == {
        modifier: int(modifier)
        for modifier in PixelFormatModifier
        # Bits that only sysmem defines: transaction elimination, tiled headers and Intel's colour control surfaces.
        if modifier >> 56 in (intel, arm) and not modifier & 0x0100_3000
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
