"""`sysmem.constraints`: tables from a plain description."""

from __future__ import annotations

import re
from typing import Any

import pytest

import sysmem
from sysmem import (
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    BufferUsage,
    ColorSpace,
    CpuUsage,
    DisplayUsage,
    Heap,
    ImageFormatConstraints,
    NoneUsage,
    PixelFormat,
    PixelFormatModifier,
    SizeU,
    VideoUsage,
    VulkanUsage,
    blocking,
)


def image(**fields: Any) -> ImageFormatConstraints:
    return ImageFormatConstraints(
        **{
            "pixel_format": PixelFormat.NV12,
            "pixel_format_modifier": PixelFormatModifier.LINEAR,
            "color_spaces": [ColorSpace.REC709],
            **fields,
        }
    )


def test_a_description_becomes_a_table() -> None:
    assert sysmem.constraints(
        "NV12 1280x720", cpu="write often", hold=2, align=64
    ) == BufferCollectionConstraints(
        usage=BufferUsage(cpu=CpuUsage.WRITE_OFTEN),
        min_buffer_count_for_camping=2,
        image_format_constraints=[
            image(min_size=SizeU(1280, 720), max_size=SizeU(1280, 720), bytes_per_row_divisor=64)
        ],
    )


def test_raw_memory_needs_no_image() -> None:
    assert sysmem.constraints(
        cpu="read, write",
        size_bytes=65536,
        slack=1,
        count=3,
        max_count=5,
        heap="vram",
        contiguous=True,
        secure=False,
    ) == BufferCollectionConstraints(
        usage=BufferUsage(cpu=CpuUsage.READ | CpuUsage.WRITE),
        min_buffer_count_for_shared_slack=1,
        min_buffer_count=3,
        max_buffer_count=5,
        buffer_memory_constraints=BufferMemoryConstraints(
            min_size_bytes=65536,
            physically_contiguous_required=True,
            secure_required=False,
            permitted_heaps=[Heap(heap_type="vram", id=0)],
        ),
    )


@pytest.mark.parametrize(
    ("words", "usage"),
    [
        ({"cpu": "Read  Often,write"}, BufferUsage(cpu=CpuUsage.READ_OFTEN | CpuUsage.WRITE)),
        ({"cpu": CpuUsage.READ}, BufferUsage(cpu=CpuUsage.READ)),
        ({"vulkan": "image sampled"}, BufferUsage(vulkan=VulkanUsage.IMAGE_SAMPLED)),
        ({"display": "layer"}, BufferUsage(display=DisplayUsage.LAYER)),
        ({"video": "hw encoder"}, BufferUsage(video=VideoUsage.HW_ENCODER)),
        ({}, BufferUsage(none=NoneUsage.NONE_USAGE)),
    ],
)
def test_usages_are_named_by_their_flags(words: dict[str, Any], usage: BufferUsage) -> None:
    assert sysmem.constraints(**words).usage == usage


@pytest.mark.parametrize(
    ("text", "least", "most"),
    [
        ("NV12", None, None),
        ("nv12 64x32", (64, 32), (64, 32)),
        ("NV12 64 × 32 ", (64, 32), (64, 32)),
        ("NV12 from 16x16", (16, 16), None),
        ("NV12 up to 64x32", None, (64, 32)),
        ("NV12 from 16x16 to 64x32", (16, 16), (64, 32)),
    ],
)
def test_a_size_is_exact_or_has_limits(
    text: str, least: tuple[int, int] | None, most: tuple[int, int] | None
) -> None:
    assert sysmem.constraints(text).image_format_constraints == [
        image(min_size=least and SizeU(*least), max_size=most and SizeU(*most))
    ]


def test_each_format_has_the_colour_spaces_that_suit_it() -> None:
    def spaces(text: str, **words: Any) -> list[list[ColorSpace | int]]:
        entries = sysmem.constraints(text, **words).image_format_constraints
        return [list(entry.color_spaces or ()) for entry in entries or ()]

    both = "NV12,B8G8R8A8:INTEL_I915_X_TILED 64x32"
    assert spaces(both) == [[ColorSpace.REC709], [ColorSpace.SRGB]]
    assert spaces(both, color="srgb, rec601_pal") == [[ColorSpace.REC601_PAL], [ColorSpace.SRGB]]
    assert spaces(both, color=[ColorSpace.SRGB, "REC709"]) == spaces(both)
    assert spaces("NV12", color=ColorSpace.DO_NOT_CARE) == [[ColorSpace.DO_NOT_CARE]]
    assert spaces("L8") == [[ColorSpace.SRGB]]


def test_a_modifier_follows_its_format() -> None:
    made = sysmem.constraints("B8G8R8A8:INTEL_I915_X_TILED", size_align="16x8")
    assert made.image_format_constraints == [
        image(
            pixel_format=PixelFormat.B8G8R8A8,
            pixel_format_modifier=PixelFormatModifier.INTEL_I915_X_TILED,
            color_spaces=[ColorSpace.SRGB],
            size_alignment=SizeU(16, 8),
        )
    ]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"image": "1280x720"}, "PixelFormat has no member '1280x720'"),
        ({"image": "NV12 big"}, "invalid image 'NV12 big': expected formats and a size"),
        ({"image": ""}, "invalid image ''"),
        ({"image": "NV21"}, "PixelFormat has no member 'NV21'; similar names: NV12"),
        ({"image": "???"}, "invalid image"),
        ({"image": "MJPEG"}, "there are no images of MJPEG LINEAR"),
        ({"image": "YV12:ARM_AFBC_16X16"}, "there are no images of YV12 ARM_AFBC_16X16"),
        (
            {"image": "NV12:LINAER"},
            "PixelFormatModifier has no member 'LINAER'; similar names: LIN",
        ),
        ({"image": "NV12 33x31"}, "must be multiples of 2, as in 34x32"),
        (
            {"image": "NV12", "color": "SRGB"},
            "NV12 can't have the colour space SRGB; it can have R",
        ),
        ({"image": "NV12", "color": "red"}, "ColorSpace has no member 'red'"),
        ({"image": "NV12", "size_align": "16"}, "size_align must be like 16x16, not '16'"),
        (
            {"cpu": "wirte"},
            "cpu='wirte': 'wirte' is not one of read, read often, write, write often",
        ),
        ({"align": 64}, "align applies to images, but no pixel format is given"),
        ({"color": "SRGB"}, "color applies to images, but no pixel format is given"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        sysmem.constraints(**arguments)


def test_plain_participants_agree(allocator: blocking.Allocator) -> None:
    with (
        allocator.allocate_shared_collection() as token,
        token.duplicate() as other,
        allocator.bind_shared_collection(token) as camera,
        allocator.bind_shared_collection(other) as display,
    ):
        camera.set_constraints(
            sysmem.constraints("NV12, R8G8B8A8 320x180", cpu="write often", hold=2, align=64)
        )
        display.set_constraints(
            sysmem.constraints("NV12 up to 1920x1080", display="layer", cpu="read", hold=1)
        )
        with camera.wait_for_all_buffers_allocated(timeout=20) as info:
            constraints = info.settings.image_format_constraints
            assert constraints is not None
            assert constraints.pixel_format is PixelFormat.NV12
            assert constraints.bytes_per_row_divisor == 64
            assert len(info.buffers) == 3
