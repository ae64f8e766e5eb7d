"""Frames in the buffers of a collection."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

import sysmem
from sysmem import blocking
from sysmem.blocking import frames
from sysmem.blocking.frames import EndOfStreamError, FrameReceiver, FrameSender

from .conftest import START, WAIT, Ends, frame, send


@pytest.fixture
def info(allocator: blocking.Allocator) -> Iterator[sysmem.BufferCollectionInfo]:
    """Two buffers of one page."""
    with allocator.allocate_non_shared_collection() as collection:
        collection.set_constraints(sysmem.constraints(cpu="read, write", size_bytes=4096, hold=2))
        with collection.wait_for_all_buffers_allocated(timeout=WAIT) as found:
            yield found


def test_frames_are_in_the_buffers_of_a_collection(info: sysmem.BufferCollectionInfo) -> None:
    near, far = frames.pair()
    with FrameSender(info, near) as sender, FrameReceiver(far, info) as receiver:
        index = sender.acquire()
        with info.buffers[index].map() as view:
            view[:5] = b"hello"
        sender.send(index, size=5)
        with receiver.receive(timeout=WAIT) as got, got.buffer.map(got.size) as view:
            assert bytes(view) == b"hello"
        index = sender.acquire()
        sender.send(index)
        with receiver.receive(timeout=WAIT) as got:
            assert got.size == 4096
        index = sender.acquire()
        for size in (-1, 4097):
            with pytest.raises(ValueError, match=f"a frame of {size} bytes doesn't fit the 4096"):
                sender.send(index, size=size)
        for size in (0, 4096):
            sender.send(index, size=size)
            with receiver.receive(timeout=WAIT) as got:
                assert got.size == size
            index = sender.acquire()


def test_the_list_of_buffers_will_do(info: sysmem.BufferCollectionInfo) -> None:
    for given in (info, info.buffers):
        near, far = frames.pair()
        with FrameSender(given, near) as sender, FrameReceiver(far, info.buffers) as receiver:
            send(sender)
            with receiver.receive(timeout=WAIT) as got:
                assert (got.size, got.buffer) == (4096, info.buffers[0])


def test_a_frame_has_the_usable_bytes_of_its_buffer(info: sysmem.BufferCollectionInfo) -> None:
    near, far = frames.pair()
    listed = [sysmem.VmoBuffer(vmo=info.buffers[0].vmo, vmo_usable_start=96), sysmem.VmoBuffer()]
    with FrameSender(listed, near) as sender, FrameReceiver(far) as receiver:
        for size in (4000, 0):
            send(sender)
            with receiver.receive(timeout=WAIT) as got:
                assert got.size == size


def test_a_receiver_without_buffers_says_so(ends: Ends) -> None:
    sender, receiver = ends
    send(sender)
    with (
        receiver.receive(timeout=WAIT) as got,
        pytest.raises(ValueError, match="buffer 0 isn't known here: make the receiver with"),
    ):
        _ = got.buffer


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        ((3, 0), "frames in 3 buffers, but this consumer has 2"),
        ((2, 12345), "frames of collection 12345, but this consumer has buffers of"),
        ((2, 2**64 - 1), "frames of collection 18446744073709551615, but this consumer has"),
    ],
)
def test_a_stream_of_another_collection_is_refused(
    info: sysmem.BufferCollectionInfo, start: tuple[int, int], reason: str
) -> None:
    near, far = frames.pair()
    with near, FrameReceiver(far, info) as receiver:
        near.send(struct.pack("=I4sIIQ", 1, b"SyFr", 1, *start))
        with pytest.raises(EndOfStreamError, match=reason):
            receiver.receive(timeout=WAIT)


def test_a_frame_larger_than_its_buffer_ends_the_stream(info: sysmem.BufferCollectionInfo) -> None:
    near, far = frames.pair()
    with near, FrameReceiver(far, info) as receiver:
        near.send(START)
        near.send(frame(0, 0, 4097))
        with pytest.raises(EndOfStreamError, match="a frame of 4097 bytes in a buffer of 4096"):
            receiver.receive(timeout=WAIT)
