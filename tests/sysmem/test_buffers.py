"""The tables that deliver buffers, and their contents (`docs/spec/client-api.md`, "What came out")."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy
import pytest

import sysmem
from sysmem import SizeU
from sysmem.blocking import Allocator

from .conftest import VMO_BYTES

PAGE = os.sysconf("SC_PAGE_SIZE")


def negotiated(
    allocator: Allocator,
    *images: sysmem.ImageFormatConstraints,
    usage: sysmem.CpuUsage = sysmem.CpuUsage.WRITE,
    size: int | None = None,
) -> sysmem.BufferCollectionInfo:
    with allocator.allocate_non_shared_collection() as collection:
        collection.set_constraints(
            sysmem.BufferCollectionConstraints(
                usage=sysmem.BufferUsage(cpu=usage),
                min_buffer_count=2,
                buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=size),
                image_format_constraints=images,
            )
        )
        info = collection.wait_for_all_buffers_allocated()
        collection.release()
    return info


NV12 = sysmem.ImageFormatConstraints(
    pixel_format=sysmem.PixelFormat.NV12,
    color_spaces=[sysmem.ColorSpace.REC709],
    min_size=SizeU(50, 30),
    size_alignment=SizeU(16, 2),
    required_max_size_list=[SizeU(128, 64)],
    bytes_per_row_divisor=64,
)


@pytest.fixture
def images(allocator: Allocator) -> Iterator[sysmem.BufferCollectionInfo]:
    with negotiated(allocator, NV12) as info:
        yield info


@pytest.fixture
def raw(allocator: Allocator) -> Iterator[sysmem.BufferCollectionInfo]:
    with negotiated(allocator, size=1000) as info:
        yield info


# --- the image ----------------------------------------------------------------------------------------------------


def test_the_image_of_the_settings_is_the_smallest_and_all_of_it_is_set(
    images: sysmem.BufferCollectionInfo,
) -> None:
    assert images.image == sysmem.ImageFormat(
        pixel_format=sysmem.PixelFormat.NV12,
        size=SizeU(64, 30),
        bytes_per_row=64,
        pixel_format_modifier=sysmem.PixelFormatModifier.LINEAR,
        color_space=sysmem.ColorSpace.REC709,
        display_rect=(0, 0, 64, 30),
    )


def test_the_image_of_another_size(images: sysmem.BufferCollectionInfo) -> None:
    image = images.image_of(SizeU(112, 64))
    assert (image.size, image.bytes_per_row) == (SizeU(112, 64), 128)
    with pytest.raises(
        ValueError, match=r"^width must be a multiple of 16: the next are 96 and 112$"
    ):
        images.image_of(SizeU(100, 64))
    with pytest.raises(
        ValueError, match="256 × 64 pixels takes 24576 bytes, the buffers have 12288"
    ):
        images.image_of(SizeU(256, 64))


def test_raw_buffers_have_no_image(raw: sysmem.BufferCollectionInfo) -> None:
    for wrong in (
        lambda: raw.image,
        lambda: raw.image_of(SizeU(4, 4)),
        lambda: raw.buffers[0].planes(),
    ):
        with pytest.raises(ValueError, match="the buffers are raw"):
            wrong()


def test_every_field_of_the_settings_is_set(images: sysmem.BufferCollectionInfo) -> None:
    settings = images.settings.image_format_constraints
    assert isinstance(settings, sysmem.ImageFormatSettings)
    un_set = {m.name for m in settings.members} - {m.name for m, _ in settings.set_fields()}
    assert un_set == {"pixel_format_and_modifiers", "is_alpha_present"}
    assert images.settings.buffer_settings.heap == sysmem.SYSTEM_RAM_HEAP
    assert images.settings.buffer_settings.heap.heap_type.endswith("SYSTEM_RAM")


def test_settings_can_be_asked_for_again(
    allocator: Allocator, images: sysmem.BufferCollectionInfo
) -> None:
    settings = images.settings.image_format_constraints
    assert settings is not None
    with negotiated(allocator, settings) as again:
        assert again.settings == images.settings


# --- planes -------------------------------------------------------------------------------------------------------


def test_planes_are_those_of_the_settings_by_default(images: sysmem.BufferCollectionInfo) -> None:
    buffer = images.buffers[1]
    assert [plane.shape for plane in buffer.planes()] == [(30, 64), (15, 32, 2)]
    assert [plane.shape for plane in buffer.planes(size=SizeU(80, 32))] == [(32, 80), (16, 40, 2)]
    with pytest.raises(ValueError, match="height must be a multiple of 2: the next are 30 and 32"):
        buffer.planes(size=SizeU(80, 31))


def test_an_image_must_fit_without_the_padding(allocator: Allocator) -> None:
    grey = sysmem.ImageFormatConstraints(
        pixel_format=sysmem.PixelFormat.R8,
        color_spaces=[sysmem.ColorSpace.SRGB],
        min_size=SizeU(10, 10),
    )
    with negotiated(allocator, grey) as info:
        assert info.settings.buffer_settings.size_bytes == 100
        image = sysmem.ImageFormat(sysmem.PixelFormat.R8, SizeU(11, 10), 11)
        with pytest.raises(ValueError, match="an image of 110 bytes doesn't fit the 100"):
            info.buffers[0].planes(image)


def test_a_buffer_that_came_without_settings_needs_an_image_format() -> None:
    with pytest.raises(ValueError, match="are not known: pass an image format"):
        sysmem.VmoBuffer().planes()


# --- arrays -------------------------------------------------------------------------------------------------------


def test_an_array_has_the_elements_of_the_buffer_without_padding(
    raw: sysmem.BufferCollectionInfo,
) -> None:
    buffer = raw.buffers[0]
    assert raw.settings.buffer_settings.size_bytes == 1000
    array = buffer.array(numpy.float64)
    assert array.shape == (125,)
    assert array.dtype == numpy.float64
    array[:] = 1.5
    assert (buffer.array("<f8") == array).all()
    assert buffer.array(offset=8).shape == (992,)
    assert buffer.array("<u4", offset=998).shape == (0,)
    assert buffer.array("u1", offset=2000).shape == (0,)


def test_an_array_of_a_shape_from_an_offset(raw: sysmem.BufferCollectionInfo) -> None:
    buffer = raw.buffers[0]
    buffer.array()[:] = numpy.arange(1000) % 251
    array = buffer.array("u1", (2, 3), numpy.int64(7))
    assert array.tolist() == [[7, 8, 9], [10, 11, 12]]
    assert buffer.array("u1", 4, offset=1).tolist() == [1, 2, 3, 4]
    assert buffer.array("u1", (), offset=5) == 5
    assert buffer.array("u1", PAGE).shape == (PAGE,), "the padding is memory too"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (
            ("u1", PAGE + 1),
            ValueError,
            rf"\({PAGE + 1},\) elements of type uint8 from byte 0 take {PAGE + 1} bytes",
        ),
        (("<u4", (2, 2), PAGE - 15), ValueError, f"take {PAGE + 1} bytes; the buffer has {PAGE}"),
        (("u1", (2, -1)), ValueError, r"no length may be negative: \(2, -1\)"),
        (("u1", None, -1), ValueError, "offset must be at least 0, not -1"),
        (("O",), TypeError, "elements of type object aren't plain data"),
        (("V0",), TypeError, "aren't plain data"),
        (("u1", 1.5), TypeError, "integer"),
    ],
)
def test_an_array_that_cant_be_is_refused(
    raw: sysmem.BufferCollectionInfo,
    arguments: tuple[Any, ...],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        raw.buffers[0].array(*arguments)


def test_arrays_are_read_only_without_the_right_to_write(allocator: Allocator) -> None:
    with negotiated(allocator, usage=sysmem.CpuUsage.READ, size=64) as info:
        array = info.buffers[0].array("u1")
        assert not array.flags.writeable
        assert info.buffers[0].mapping().readonly


# --- mappings -----------------------------------------------------------------------------------------------------


def test_a_mapping_is_kept_until_close(raw: sysmem.BufferCollectionInfo) -> None:
    buffer = raw.buffers[0]
    view = buffer.mapping()
    assert buffer.mapping() is view
    assert view.nbytes == PAGE
    view[:5] = b"hello"
    assert bytes(buffer.array("u1", 5)) == b"hello"
    buffer.close()
    with pytest.raises(ValueError, match="released"):
        view[0]
    with pytest.raises(sysmem.HandleClosedError):
        buffer.mapping()
    buffer.close()


def test_what_still_looks_at_a_mapping_keeps_it_past_close(
    raw: sysmem.BufferCollectionInfo,
) -> None:
    part = raw.buffers[0].mapping()[10:20]
    raw.close()
    part[:] = bytes(10)
    assert part.tolist() == [0] * 10


def test_a_mapping_begins_where_the_usable_part_does() -> None:
    fd = os.memfd_create("mapping", os.MFD_CLOEXEC)
    os.truncate(fd, 64)
    os.pwrite(fd, b"hello", 16)
    buffer = sysmem.VmoBuffer(vmo=sysmem.Vmo(fd), vmo_usable_start=16)
    assert bytes(buffer.mapping()[:5]) == b"hello"
    assert buffer.array("u1").shape == (48,)
    assert buffer.array("u1", 5).tobytes() == b"hello"
    buffer.close()


def test_a_buffer_without_a_vmo_has_no_mapping_nor_array() -> None:
    for wrong in (sysmem.VmoBuffer().mapping, lambda: sysmem.VmoBuffer().array("u1")):
        with pytest.raises(ValueError, match="without a VMO"):
            wrong()


# --- map and close ------------------------------------------------------------------------------------------------


def test_a_buffer_is_mapped_from_where_it_is_usable(vmo: sysmem.Vmo) -> None:
    buffer = sysmem.VmoBuffer(vmo=vmo, vmo_usable_start=100)
    with vmo.map() as whole:
        whole[100] = 42
    with buffer.map() as view:
        assert len(view) == VMO_BYTES - 100
        assert view[0] == 42
    with buffer.map(5) as view:
        assert len(view) == 5
    with pytest.raises(ValueError, match="8093"):
        buffer.map(VMO_BYTES - 100 + 1)


def test_a_buffer_without_a_vmo_cannot_be_mapped() -> None:
    with pytest.raises(ValueError, match="without a VMO"):
        sysmem.VmoBuffer().map()


def test_closing_the_info_closes_all(vmo: sysmem.Vmo) -> None:
    other = vmo.duplicate()
    info = sysmem.BufferCollectionInfo(
        buffers=[sysmem.VmoBuffer(vmo=vmo), sysmem.VmoBuffer(vmo=other), sysmem.VmoBuffer()]
    )
    with info as entered:
        assert entered is info
    assert vmo.closed
    assert other.closed
    info.close()


def test_tables_compare_and_show_what_is_set() -> None:
    assert sysmem.VmoInfo(buffer_index=1) == sysmem.VmoInfo(buffer_index=1)
    assert sysmem.VmoInfo(buffer_index=1) != sysmem.VmoInfo(buffer_index=2)
    assert repr(sysmem.VmoInfo(buffer_index=1)) == "VmoInfo(buffer_index=1)"
