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
    Rights,
    blocking,
)

from .scenario import ENOUGH, buffers, root_and_child, vmo_of

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


def test_an_executable_mapping_is_not_a_right_anybody_has(client: blocking.Allocator) -> None:
    with handed_out(client) as info:
        mode = os.fstat(vmo_of(info).fileno()).st_mode
        assert mode & 0o777 & ~0o600 == 0
