"""A stream whose both ends are in this process."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from sysmem.blocking import frames
from sysmem.blocking.frames import FrameReceiver, FrameSender

WAIT = 120.0
Ends = tuple[FrameSender, FrameReceiver]


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A producer with four buffers, and its consumer."""
    near, far = frames.pair()
    with FrameSender(4, near) as sender, FrameReceiver(far) as receiver:
        yield sender, receiver


def send(sender: FrameSender, **values: object) -> int:
    return sender.send(sender.acquire(timeout=WAIT), **values)  # type: ignore[arg-type]  # what a test gives


def send_all(sender: FrameSender) -> None:
    """Send a frame in each buffer of the producer of `ends`."""
    for _ in range(4):
        send(sender)


def drain(receiver: FrameReceiver) -> None:
    for each in receiver:
        each.release()


#: The first message of a producer with two buffers.
START = struct.pack("=I4sIIQ", 1, b"SyFr", 1, 2, 0)


def frame(index: int, sequence: int, size: int = 0) -> bytes:
    """Return a producer's message."""
    return struct.pack("=IIQqQ", 2, index, sequence, 0, size)
