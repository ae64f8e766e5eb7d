"""The public interface as type checkers see it. Nothing here runs: mypy and pyright check the assertions."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import Any, assert_type

import numpy
from numpy.typing import NDArray

import sysmem
from sysmem import blocking


def what_an_answer_always_sets_is_not_optional(info: sysmem.BufferCollectionInfo) -> None:
    assert_type(info.settings, sysmem.SingleBufferSettings)
    assert_type(info.buffers, list[sysmem.VmoBuffer])
    assert_type(info.buffer_collection_id, int)
    memory = assert_type(info.settings.buffer_settings, sysmem.BufferMemorySettings)
    assert_type(memory.size_bytes, int)
    assert_type(memory.is_secure, bool)
    assert_type(memory.heap.heap_type, str)
    assert_type(memory.heap.id, int)
    assert_type(info.buffers[0].vmo_usable_start, int)


def what_may_be_un_set_is_optional(info: sysmem.BufferCollectionInfo) -> None:
    assert_type(info.buffers[0].vmo, sysmem.Vmo | None)
    assert_type(info.buffers[0].close_weak_asap, sysmem.EventPair | None)
    images = assert_type(info.settings.image_format_constraints, sysmem.ImageFormatSettings | None)
    if images is not None:
        assert_type(images.pixel_format, sysmem.PixelFormat | int)
        assert_type(images.color_spaces, Sequence[sysmem.ColorSpace | int])
        assert_type(images.max_size.width, int)
        assert_type(images.bytes_per_row_divisor, int)
        assert_type(images.is_alpha_present, bool | None)


def nothing_in_an_image_is_optional(info: sysmem.BufferCollectionInfo) -> None:
    image = assert_type(info.image, sysmem.ImageFormat)
    assert_type(image, sysmem.ImageFormat)
    assert_type(info.image_of(sysmem.SizeU(64, 48)), sysmem.ImageFormat)
    assert_type(image.pixel_format, sysmem.PixelFormat)
    assert_type(image.pixel_format_modifier, sysmem.PixelFormatModifier | int)
    assert_type(image.color_space, sysmem.ColorSpace)
    assert_type(image.display_rect, tuple[int, int, int, int])
    assert_type(image.pixel_format.drm_fourcc, int | None)


def a_buffers_memory(info: sysmem.BufferCollectionInfo) -> None:
    buffer = info.buffers[0]
    assert_type(buffer.planes(), list[NDArray[Any]])
    assert_type(buffer.planes(info.settings.image_format_constraints), list[NDArray[Any]])
    assert_type(buffer.planes(info.image), list[NDArray[Any]])
    assert_type(buffer.planes(size=sysmem.SizeU(64, 48)), list[NDArray[Any]])
    assert_type(buffer.array(numpy.float32), NDArray[Any])
    assert_type(buffer.array("<u2", (48, 64), offset=128), NDArray[Any])
    assert_type(buffer.mapping(), memoryview)
    with buffer.map(64) as view:
        assert_type(view, memoryview)


def constraints_take_members_and_plain_numbers() -> None:
    sysmem.BufferCollectionConstraints(
        usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ | sysmem.CpuUsage.WRITE, video=8),
        min_buffer_count_for_camping=2,
        image_format_constraints=[
            sysmem.ImageFormatConstraints(
                pixel_format=sysmem.PixelFormat.NV12,
                pixel_format_modifier=0,
                color_spaces=[sysmem.ColorSpace.REC709, 9],
                min_size=sysmem.SizeU(64, height=48),
            )
        ],
    )
    constraints = sysmem.BufferCollectionConstraints()
    assert_type(constraints.max_buffer_count, int | None)
    assert_type(constraints.usage, sysmem.BufferUsage | None)


def settings_can_be_asked_for_again(info: sysmem.BufferCollectionInfo) -> None:
    if info.settings.image_format_constraints is not None:
        sysmem.BufferCollectionConstraints(
            image_format_constraints=[info.settings.image_format_constraints]
        )


def what_the_daemon_knows_of_a_vmo(allocator: blocking.Allocator, vmo: sysmem.Vmo) -> None:
    with allocator.get_vmo_info(vmo, need_weak=True) as found:
        assert_type(found, sysmem.VmoInfo)
        assert_type(found.buffer_index, int)
        assert_type(found.weak_vmo, sysmem.Vmo | None)
        assert_type(found.constraints_ok, bool | None)
        assert_type(found.single_buffer_settings, sysmem.SingleBufferSettings | None)


def the_blocking_face() -> None:
    with blocking.connect() as allocator:
        assert_type(allocator, blocking.Allocator)
        token = assert_type(allocator.allocate_shared_collection(), blocking.BufferCollectionToken)
        assert_type(token.duplicate_sync([1]), list[blocking.BufferCollectionToken])
        with allocator.bind_shared_collection(token) as collection:
            assert_type(collection, blocking.BufferCollection)
            with collection.wait_for_all_buffers_allocated(timeout=1) as info:
                assert_type(info, sysmem.BufferCollectionInfo)
            event = assert_type(collection.attach_lifetime_tracking(), blocking.EventPair)
            assert_type(event.wait_closed(1), bool)
            either: sysmem.EventPair = event
            either.is_closed()


async def the_async_face() -> None:
    async with sysmem.connect() as allocator:
        assert_type(allocator, sysmem.Allocator)
        token = assert_type(
            await allocator.allocate_shared_collection(), sysmem.BufferCollectionToken
        )
        assert_type(await token.duplicate_sync([1]), list[sysmem.BufferCollectionToken])
        async with await allocator.bind_shared_collection(token) as collection:
            assert_type(collection, sysmem.BufferCollection)
            with await collection.wait_for_all_buffers_allocated() as info:
                assert_type(info, sysmem.BufferCollectionInfo)
            event = assert_type(await collection.attach_lifetime_tracking(), sysmem.AsyncEventPair)
            assert_type(await event.wait_closed(1), bool)
            either: sysmem.EventPair = event
            await either.wait_closed()
    assert_type(await sysmem.connect(), sysmem.Allocator)


def tokens_are_passed_on(sock: socket.socket, pipe: Connection, wait: float | None) -> None:
    with blocking.connect(wait=wait) as allocator:
        token = assert_type(allocator.take("camera", timeout=1), blocking.BufferCollectionToken)
        token.send(pipe, timeout=1)
        token, data = blocking.BufferCollectionToken.receive(sock.fileno())
        assert_type(data, bytes)
        allocator.offer("camera", assert_type(token, blocking.BufferCollectionToken), to=1000)


async def tokens_are_passed_on_by_tasks(sock: socket.socket, wait: float | None) -> None:
    async with sysmem.connect(wait=wait) as allocator:
        assert_type(allocator, sysmem.Allocator)
        token = assert_type(await allocator.take("camera"), sysmem.BufferCollectionToken)
        await token.send(sock, memoryview(b"data"))
        token, data = await sysmem.BufferCollectionToken.receive(sock)
        assert_type(data, bytes)
        await allocator.offer("camera", assert_type(token, sysmem.BufferCollectionToken))
    assert_type(await sysmem.connect(wait=5), sysmem.Allocator)


def the_blocking_face_is_an_attribute_too(allocator: blocking.Allocator) -> None:
    same: sysmem.blocking.Allocator = allocator
    same.close()


def errors(error: sysmem.SysmemError) -> None:
    assert_type(error.error, sysmem.Error | int)
