"""Frames from the driver into the negotiated buffers: by dma-buf, or copied from the driver's own memory."""

from __future__ import annotations

import select
from collections.abc import Generator, Iterator
from contextlib import ExitStack

import numpy as np
from v4l2 import DMABUF, MMAP, Camera, CameraError, Format

import sysmem
from sysmem.blocking.frames import FrameSender

PATIENCE = 20.0  # seconds


def by_dma_buf(
    camera: Camera, info: sysmem.BufferCollectionInfo, sender: FrameSender, image_bytes: int
) -> Generator[None, None, None]:
    """Let the driver fill the buffers themselves. Yields after each frame that was sent.

    Raises:
        OSError: The buffers can't be made dma-bufs; nothing was captured then.
        CameraError: The driver doesn't import dma-bufs; likewise.
    """
    with ExitStack() as stack:
        dma_bufs = []
        for buffer in info.buffers:
            assert buffer.vmo is not None
            dma_bufs.append(stack.enter_context(buffer.vmo.dma_buf()))
        try:
            granted = camera.request_buffers(len(dma_bufs), DMABUF)
        except OSError as error:
            raise CameraError(f"{camera.name} doesn't import dma-bufs: {error.strerror}") from error
        stack.callback(camera.request_buffers, 0, DMABUF)
        if granted < len(dma_bufs):
            raise CameraError(f"{camera.name} takes {granted} of {len(dma_bufs)} buffers")
        queued: set[int] = set()
        stack.callback(give_back, sender, queued)
        streaming = False
        while True:
            # Whatever the consumers have given back, the driver may fill.
            for index in iter_free(sender):
                dma_buf = dma_bufs[index]
                queued.add(index)
                camera.queue(index, DMABUF, dma_buf.fileno(), dma_buf.size)
            if not streaming:
                camera.stream(True)
                stack.callback(camera.stream, False)
                streaming = True
            wait(camera, sender)
            while (filled := camera.dequeue(DMABUF)) is not None:
                queued.remove(filled[0])
                sender.send(filled[0], size=image_bytes)
                yield


def by_copying(
    camera: Camera,
    info: sysmem.BufferCollectionInfo,
    sender: FrameSender,
    image_bytes: int,
    taken: Format,
) -> Generator[None, None, None]:
    """Copy each frame from the driver's memory. Yields after each frame that was sent."""
    with ExitStack() as stack:
        count = camera.request_buffers(4, MMAP)
        stack.callback(camera.request_buffers, 0, MMAP)
        own = [stack.enter_context(camera.map_buffer(index)) for index in range(count)]
        for index in range(count):
            camera.queue(index, MMAP)
        camera.stream(True)
        stack.callback(camera.stream, False)
        while True:
            while (filled := camera.dequeue(MMAP)) is None:
                wait(camera, sender)
            number, length = filled
            index = sender.acquire(timeout=PATIENCE)
            target = info.buffers[index].array(np.uint8)
            length = min(length, image_bytes)
            target[:length] = np.frombuffer(own[number], np.uint8, length)
            camera.queue(number, MMAP)
            sender.send(index, size=image_bytes)
            yield


def iter_free(sender: FrameSender) -> Iterator[int]:
    """Acquire all buffers that are free now."""
    while True:
        try:
            yield sender.acquire(timeout=0)
        except TimeoutError:
            return


def give_back(sender: FrameSender, indices: set[int]) -> None:
    """Return buffers that the driver had, and doesn't have any more."""
    for index in indices:
        sender.cancel(index)


def wait(camera: Camera, sender: FrameSender) -> None:
    """Wait for a filled buffer, or for one that came back."""
    either: list[Camera | FrameSender] = [camera, sender]
    readable, _, _ = select.select(either, [], [], PATIENCE)
    if not readable:
        raise CameraError(f"{camera.name} delivered nothing for {PATIENCE:.0f} seconds")
