"""Which participants may write, which may only read, and which get no buffer (`docs/spec/protocol.md`, "Rights")."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import sysmem
from sysmem import (
    BufferUsage,
    CpuUsage,
    DisplayUsage,
    PeerClosedError,
    Rights,
    VideoUsage,
    VulkanUsage,
    blocking,
)
from sysmem.testing import Sysmemd

from .scenario import ENOUGH, buffers, eventually, root_and_child, vmo_of

READER = Rights(0xFFFFFFFF & ~Rights.WRITE)


@contextmanager
def handed_out(
    client: blocking.Allocator, *masks: int, usage: BufferUsage | None = None
) -> Iterator[sysmem.BufferCollectionInfo]:
    """Return the buffers of the last token in a chain. Each token was created from its predecessor with a mask."""
    tokens = [client.allocate_shared_collection()]
    for mask in masks:
        tokens.append(tokens[-1].duplicate(mask))
        tokens[-2].sync()
    last = client.bind_shared_collection(tokens[-1])
    first = client.bind_shared_collection(tokens[0]) if masks else last
    for token in tokens[1:-1]:
        token.release()
    with first, last:
        if masks:
            first.set_constraints(buffers())
        last.set_constraints(buffers() if usage is None else buffers(usage=usage))
        with last.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
            yield info


def test_a_reader_can_map_for_reading_alone(client: blocking.Allocator) -> None:
    with handed_out(client, READER) as info:
        vmo = vmo_of(info)
        assert vmo.writable is False
        with vmo.map() as view:
            assert view.readonly
            assert bytes(view[:4]) == b"\0\0\0\0"
            with pytest.raises(TypeError):
                view[0] = 1
        with pytest.raises(OSError, match=r"denied|not permitted"):
            mmap.mmap(vmo.fileno(), vmo.size)  # shared and writable
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(vmo.fileno(), b"x")


def test_a_writer_can_write(client: blocking.Allocator) -> None:
    with handed_out(client) as info:
        vmo = vmo_of(info)
        assert vmo.writable is True
        assert info.buffers is not None
        with info.buffers[0].map() as view:
            assert not view.readonly
            view[4095] = 7
        with vmo.map(length=16) as view:
            assert len(view) == 16
            assert not any(view)
        with vmo.map(None) as view:
            assert len(view) == vmo.size == 4096
            assert view[4095] == 7


def test_nobody_can_change_the_size(client: blocking.Allocator) -> None:
    with handed_out(client) as info:
        for size in (0, 100, 8192):
            with pytest.raises(OSError, match="not permitted"):
                os.ftruncate(vmo_of(info).fileno(), size)


@pytest.mark.parametrize(
    ("masks", "writable"),
    [
        ([Rights.SAME_RIGHTS], True),
        ([0xFFFFFFFF], True),
        ([0], True),  # deprecated: as SAME_RIGHTS
        ([Rights.READ | Rights.WRITE | Rights.MAP], True),
        ([Rights.READ], False),
        ([READER, Rights.SAME_RIGHTS], False),  # rights never grow
        ([READER, 0xFFFFFFFF], False),
        ([READER, Rights.READ | Rights.WRITE], False),
        ([READER, 0], False),
        ([Rights.SAME_RIGHTS, READER], False),
    ],
)
def test_masks_attenuate(client: blocking.Allocator, masks: list[int], writable: bool) -> None:
    with handed_out(client, *masks) as info:
        assert vmo_of(info).writable is writable


@pytest.mark.parametrize(
    "masks",
    [
        [Rights.WRITE],
        [Rights(0xFFFFFFFF & ~Rights.READ)],
        [Rights.READ, Rights.WRITE],
        [Rights.TRANSFER, Rights.SAME_RIGHTS],
    ],
)
def test_a_mask_without_read_delivers_no_vmo(client: blocking.Allocator, masks: list[int]) -> None:
    with handed_out(client, *masks) as info:
        assert info.buffers is not None
        assert len(info.buffers) == 2
        assert [buffer.vmo for buffer in info.buffers] == [None, None]
        assert info.settings is not None


@pytest.mark.parametrize(
    ("usage", "writable"),
    [
        (BufferUsage(cpu=CpuUsage.READ), False),
        (BufferUsage(cpu=CpuUsage.READ_OFTEN), False),
        (BufferUsage(cpu=CpuUsage.WRITE), True),
        (BufferUsage(cpu=CpuUsage.WRITE_OFTEN), True),
        (BufferUsage(vulkan=VulkanUsage.IMAGE_TRANSFER_SRC), False),
        (BufferUsage(vulkan=VulkanUsage.IMAGE_TRANSFER_DST), True),
        (BufferUsage(vulkan=VulkanUsage.IMAGE_SAMPLED), False),
        (BufferUsage(vulkan=VulkanUsage.IMAGE_STORAGE), True),
        (BufferUsage(vulkan=VulkanUsage.IMAGE_COLOR_ATTACHMENT), True),
        (BufferUsage(vulkan=VulkanUsage.IMAGE_STENCIL_ATTACHMENT), True),
        (BufferUsage(vulkan=VulkanUsage.IMAGE_TRANSIENT_ATTACHMENT), True),
        (BufferUsage(vulkan=VulkanUsage.IMAGE_INPUT_ATTACHMENT), False),
        (BufferUsage(vulkan=VulkanUsage.BUFFER_TRANSFER_SRC), False),
        (BufferUsage(vulkan=VulkanUsage.BUFFER_TRANSFER_DST), True),
        (BufferUsage(vulkan=VulkanUsage.BUFFER_UNIFORM_TEXEL_BUFFER), False),
        (BufferUsage(vulkan=VulkanUsage.BUFFER_STORAGE_TEXEL_BUFFER), True),
        (BufferUsage(vulkan=VulkanUsage.BUFFER_UNIFORM_BUFFER), False),
        (BufferUsage(vulkan=VulkanUsage.BUFFER_STORAGE_BUFFER), True),
        (BufferUsage(vulkan=VulkanUsage.BUFFER_INDEX_BUFFER), False),
        (BufferUsage(vulkan=VulkanUsage.BUFFER_VERTEX_BUFFER), False),
        (BufferUsage(vulkan=VulkanUsage.BUFFER_INDIRECT_BUFFER), False),
        (BufferUsage(display=DisplayUsage.LAYER | DisplayUsage.CURSOR), False),
        (BufferUsage(video=VideoUsage.HW_DECODER), True),
        (BufferUsage(video=VideoUsage.HW_ENCODER), True),
        (BufferUsage(video=4), False),
        (BufferUsage(video=VideoUsage.CAPTURE), True),
        (BufferUsage(video=VideoUsage.DECRYPTOR_OUTPUT), True),
        (BufferUsage(video=VideoUsage.HW_DECODER_INTERNAL), True),
        (BufferUsage(none=3), False),
    ],
    ids=repr,
)
def test_usage_says_who_writes(
    client: blocking.Allocator, usage: BufferUsage, writable: bool
) -> None:
    with handed_out(client, Rights.SAME_RIGHTS, usage=usage) as info:
        assert vmo_of(info).writable is writable


def test_anothers_usage_gives_nobody_the_right_to_write(client: blocking.Allocator) -> None:
    # The other participant of `handed_out` writes.
    with handed_out(client, Rights.SAME_RIGHTS, usage=BufferUsage(cpu=CpuUsage.READ)) as info:
        assert vmo_of(info).writable is False


def test_what_one_writes_the_other_reads(client: blocking.Allocator) -> None:
    with root_and_child(client, READER) as (writer, reader):
        reader.set_constraints(buffers(usage=BufferUsage(cpu=CpuUsage.READ_OFTEN)))
        writer.set_constraints(buffers())
        with (
            writer.wait_for_all_buffers_allocated() as theirs,
            reader.wait_for_all_buffers_allocated() as mine,
            vmo_of(theirs).map() as out,
            vmo_of(mine).map() as into,
        ):
            out[:5] = b"hello"
            assert bytes(into[:5]) == b"hello"


def test_mask_0_fails_the_node_everywhere_but_in_duplicate(
    client: blocking.Allocator, daemon: Sysmemd
) -> None:
    with client.allocate_shared_collection() as token:
        wanted = ("[error", "mask 0", str(token.get_buffer_collection_id()))

        def complained() -> bool:
            return any(all(word in line for word in wanted) for line in daemon.log.splitlines())

        assert not complained()
        token.duplicate(0).release()
        token.sync()
        eventually(complained)
    with client.allocate_shared_collection() as token, pytest.raises(PeerClosedError):
        token.duplicate_sync([Rights.SAME_RIGHTS, 0])
    with client.allocate_non_shared_collection() as collection:
        attached = collection.attach_token(0)
        assert attached.wait_closed(timeout=ENOUGH)
        assert collection.wait_closed(timeout=ENOUGH)
        attached.close()
    with (
        client.allocate_shared_collection() as token,
        token.create_buffer_collection_token_group() as group,
    ):
        child = group.create_child(0)
        assert group.wait_closed(timeout=ENOUGH)
        assert token.wait_closed(timeout=ENOUGH)
        child.close()
    with (
        client.allocate_shared_collection() as token,
        token.create_buffer_collection_token_group() as group,
        pytest.raises(PeerClosedError),
    ):
        group.create_children_sync([0])


def test_attached_and_group_children_attenuate_too(client: blocking.Allocator) -> None:
    with (
        client.allocate_shared_collection() as token,
        token.create_buffer_collection_token_group() as group,
    ):
        child = group.create_child(READER)
        group.all_children_present()
        group.sync()
        with (
            client.bind_shared_collection(child) as chosen,
            client.bind_shared_collection(token) as parent,
        ):
            chosen.set_constraints(buffers())
            parent.set_constraints(buffers())
            with chosen.wait_for_all_buffers_allocated() as info:
                assert vmo_of(info).writable is False
            with parent.wait_for_all_buffers_allocated() as info:
                assert vmo_of(info).writable is True
            attached = parent.attach_token(rights_attenuation_mask=READER)
            parent.sync()
            with client.bind_shared_collection(attached) as late:
                late.set_constraints(buffers(min_buffer_count_for_camping=0))
                with late.wait_for_all_buffers_allocated() as info:
                    assert vmo_of(info).writable is False


def test_an_executable_mapping_is_not_a_right_anybody_has(client: blocking.Allocator) -> None:
    with handed_out(client) as info:
        mode = os.fstat(vmo_of(info).fileno()).st_mode
        assert mode & 0o777 & ~0o600 == 0
