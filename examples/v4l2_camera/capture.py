"""Brings frames from the driver into the negotiated buffers: by dma-buf, by copying or by decoding."""

from __future__ import annotations

import mmap
import select
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, suppress

import av
import av.error
import numpy as np
from needs import Offer, plane_offsets
from numpy.typing import NDArray
from v4l2 import DMABUF, MMAP, Camera, CameraError, Piece

import sysmem
from sysmem.blocking.frames import FrameSender

PATIENCE = 20.0  # seconds
_Parts = Sequence[NDArray[np.uint8]]


def by_dma_buf(
    camera: Camera, info: sysmem.BufferCollectionInfo, sender: FrameSender, taken: Offer
) -> Generator[None, None, None]:
    """Let the driver fill the buffers themselves. Yields after each frame that was sent.

    Raises:
        OSError: The buffers can't be made dma-bufs. Nothing was captured then.
        CameraError: The driver can't fill these buffers. Nothing was captured then.
    """
    if taken.decoder:
        raise CameraError(f"frames in {taken.format.name} are decoded into the buffers")
    offsets, size = plane_offsets(info.image), info.image.byte_size()
    with ExitStack() as stack:
        dma_bufs = [
            [
                (each.fileno(), each.size)
                for each in _dma_bufs(stack, vmo, offsets, taken.format.pieces)
            ]
            for vmo in (buffer.vmo for buffer in info.buffers)
            if vmo is not None
        ]
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
            # The driver may fill the buffers that all consumers have given back.
            for index in iter_free(sender):
                queued.add(index)
                camera.queue(index, DMABUF, dma_bufs[index])
            if not streaming:
                camera.stream(True)
                stack.callback(camera.stream, False)
                streaming = True
            wait(camera, sender)
            while (filled := camera.dequeue(DMABUF)) is not None:
                if any(part.start for part in filled.filled):
                    raise CameraError(f"{camera.name} doesn't begin its frames at the first byte")
                queued.remove(filled.number)
                if filled.damaged:
                    sender.cancel(filled.number)
                    continue
                sender.send(filled.number, size=size)
                yield


def _dma_bufs(
    stack: ExitStack, vmo: sysmem.Vmo, offsets: Sequence[int], pieces: Sequence[Piece]
) -> list[sysmem.DmaBuf]:
    """Make a dma-buf of a buffer, or one of each of its planes if the driver has a piece of memory for each."""
    if len(pieces) == 1:
        return [stack.enter_context(vmo.dma_buf())]
    if any(offset % mmap.PAGESIZE for offset in offsets):
        raise CameraError("a dma-buf has whole pages, and the planes here don't begin at pages")
    sizes = np.diff([*offsets, vmo.size]).tolist()
    for plane, (size, piece) in enumerate(zip(sizes, pieces, strict=True)):
        if size < piece.size_bytes:
            raise CameraError(
                f"the driver wants {piece.size_bytes} bytes for plane {plane}, not {size}"
            )
    return [
        stack.enter_context(vmo.dma_buf(offset, size))
        for offset, size in zip(offsets, sizes, strict=True)
    ]


def by_copying(
    camera: Camera, info: sysmem.BufferCollectionInfo, sender: FrameSender, taken: Offer
) -> Generator[None, None, None]:
    """Copy or decode each frame from the driver's memory. Yields after each frame that was sent."""
    write, size = _writer(info, taken), info.image.byte_size()
    with ExitStack() as stack:
        count = camera.request_buffers(4, MMAP)
        stack.callback(camera.request_buffers, 0, MMAP)
        # Each array keeps its mapping. Both are freed with this generator.
        own = [
            [np.frombuffer(piece, np.uint8) for piece in camera.map_buffer(index)]
            for index in range(count)
        ]
        for index in range(count):
            camera.queue(index, MMAP)
        camera.stream(True)
        stack.callback(camera.stream, False)
        while True:
            while (filled := camera.dequeue(MMAP)) is None:
                wait(camera, sender)
            index = sender.acquire(timeout=PATIENCE)
            pieces = zip(own[filled.number], filled.filled, strict=True)
            parts = [piece[part] for piece, part in pieces]
            complete = not filled.damaged and write(info.buffers[index], parts)
            camera.queue(filled.number, MMAP)
            if not complete:
                sender.cancel(index)
                continue
            sender.send(index, size=size)
            yield


def _writer(
    info: sysmem.BufferCollectionInfo, taken: Offer
) -> Callable[[sysmem.VmoBuffer, _Parts], bool]:
    """Return a function that writes a driver's frame into a buffer, and returns whether the frame was readable."""
    if taken.decoder is None:
        offsets = plane_offsets(info.image)[: len(taken.format.pieces)]
        ends = [*offsets[1:], info.image.byte_size() or 0]

        def copy(buffer: sysmem.VmoBuffer, parts: _Parts) -> bool:
            target = buffer.array(np.uint8)
            for begin, end, part in zip(offsets, ends, parts, strict=True):
                part = part[: end - begin]
                target[begin : begin + len(part)] = part
            return True

        return copy

    codec, pixel_format, pixel_bytes = taken.decoder
    context = av.CodecContext.create(codec, "r")
    assert isinstance(context, av.VideoCodecContext)
    if pixel_format is not None:
        context.pix_fmt = pixel_format
        context.width, context.height = taken.format.width, taken.format.height

    def decode(buffer: sysmem.VmoBuffer, parts: _Parts) -> bool:
        [data] = parts
        if pixel_bytes:  # the decoder does not support padded rows
            width = taken.format.width * pixel_bytes
            row = taken.format.rows[0] or width
            data = data[: len(data) // row * row].reshape(-1, row)[:, :width]
        if not data.size:  # the decoder takes an empty packet for the end of the stream
            return False
        with suppress(av.error.InvalidDataError):
            for frame in context.decode(av.Packet(data.tobytes())):
                buffer.fill_from(frame)
                return True
        return False

    return decode


def iter_free(sender: FrameSender) -> Iterator[int]:
    """Acquire all buffers that are free now."""
    while True:
        try:
            yield sender.acquire(timeout=0)
        except TimeoutError:
            return


def give_back(sender: FrameSender, indices: set[int]) -> None:
    """Give back buffers that the driver no longer has."""
    for index in indices:
        sender.cancel(index)


def wait(camera: Camera, sender: FrameSender) -> None:
    """Wait until the driver has filled a buffer, or a consumer has given one back."""
    either: list[Camera | FrameSender] = [camera, sender]
    readable, _, _ = select.select(either, [], [], PATIENCE)
    if not readable:
        raise CameraError(f"{camera.name} delivered nothing for {PATIENCE:.0f} seconds")
