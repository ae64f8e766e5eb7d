"""A consumer's end of a stream, without waiting."""

from __future__ import annotations

import socket
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn

from sysmem_protocol.docstrings import documented
from sysmem_protocol.handles import Handle
from sysmem_protocol.owner import Uncopied, WithBlock

from .._buffers import BufferCollectionInfo, VmoBuffer
from . import messages
from .buffers import Buffers
from .ends import End, EndOfStreamError, own, received
from .messages import FrameHeader, Start, StreamError
from .statistics import ReceiverStatistics


@documented
class Frame(WithBlock, Uncopied):
    """One frame in a buffer. The producer doesn't write into the buffer until this consumer releases the frame.

    The end of a with-block releases the frame. So does the garbage collector, with a `ResourceWarning`.
    """

    __slots__ = (
        "__weakref__",
        "_receiver",
        "index",
        "metadata",
        "released",
        "sequence",
        "size",
        "timestamp",
    )
    _owned = "a buffer until it is released"
    _instead = "the producer sends a frame to each consumer"

    index: int
    """The index of the buffer that holds the frame."""
    sequence: int
    """The number of the frame. The producer counts from 0; the numbers of frames that were dropped are missing."""
    timestamp: int
    """When the frame was taken, in nanoseconds of CLOCK_MONOTONIC."""
    size: int
    """The size of the frame in bytes, from the start of the buffer."""
    metadata: Any
    """What the producer said about the frame, or None."""
    released: bool
    """Whether the frame was given back."""

    def __init__(self, receiver: Receiver, header: FrameHeader) -> None:
        self.index = header.index
        self.sequence = header.sequence
        self.timestamp = header.timestamp
        self.size = header.size
        self.metadata = header.metadata
        self._receiver = receiver
        self.released = False

    @property
    def buffer(self) -> VmoBuffer:
        """The buffer that holds the frame. Raises `ValueError` if the receiver was made without buffers."""
        return self._receiver.buffer(self.index)

    def release(self) -> None:
        """Give the buffer back to the producer. Idempotent, never waits, and may be called in any thread."""
        if not self.released:
            self.released = True
            self._receiver.give_back(self.sequence)

    close = release

    def __del__(self, _warn: Any = warnings.warn) -> None:
        if not getattr(self, "released", True):
            self.release()
            _warn(f"{self!r} was dropped without release()", ResourceWarning, 2, source=self)

    def __repr__(self) -> str:
        return f"<Frame {self.sequence} in buffer {self.index}{', released' * self.released}>"


class Receiver(End):
    """What both faces' :class:`FrameReceiver` have in common; see there."""

    def __init__(
        self,
        sock: socket.socket | Handle | int,
        buffers: BufferCollectionInfo | Sequence[VmoBuffer] | None = None,
    ) -> None:
        super().__init__()
        self._buffers = None if buffers is None else Buffers.of(buffers)
        self._start: Start | None = None
        #: Frames that this consumer has, by their numbers.
        self._held: set[int] = set()
        #: Releases for which the socket had no room.
        self._unsent: list[int] = []
        self._received = self._released = self._missed = 0
        #: The number that the next frame has if none is dropped.
        self._next: int | None = None
        #: Why there are no more frames, and whether the producer closed the stream.
        self._end: tuple[str, bool] | None = None
        taken = own(sock)
        self._sock: socket.SocketType = taken.made[0]
        self._open(self._sock)

    def buffer(self, index: int) -> VmoBuffer:
        """Return a buffer by its index. Raises `ValueError` if the receiver was made without buffers."""
        if self._buffers is None:
            raise ValueError(f"buffer {index} isn't known here: make the receiver with `buffers`")
        return self._buffers.list[index]

    def give_back(self, sequence: int) -> None:
        """Release a frame by its number. Does nothing after the end of the stream."""
        with self._lock:
            if sequence not in self._held:
                return
            self._held.remove(sequence)
            self._released += 1
            self._unsent.append(sequence)
            self._send_releases()

    def statistics(self) -> ReceiverStatistics:
        """Return what happened so far."""
        with self._lock:
            return ReceiverStatistics(
                received=self._received,
                released=self._released,
                held=len(self._held),
                missed=self._missed,
                ended=self._end and self._end[0],
            )

    def fileno(self) -> int:
        """The descriptor of the socket, readable when a frame or the stream's end has come. The receiver owns it."""
        self._check_open()
        return self._sock.fileno()

    def close(self) -> None:
        """Leave the stream. The producer gets all buffers back. Idempotent."""
        with self._lock:
            self.abandon()

    def abandon(self) -> None:
        """Close without sending a reason, as if the process had died. Idempotent."""
        self._held.clear()
        super().abandon()

    # --- for the faces ------------------------------------------------------------------------------------------------

    def _take(self) -> Frame | None:
        """Return the next frame, or None if there is none yet. Raises `EndOfStreamError` at the end of the stream."""
        with self._lock:
            self._check_open()
            if self._end is not None:
                self._raise_end(*self._end)
            if self._unsent:
                self._send_releases()
            while (message := received(self._sock)) is not None:
                try:
                    frame = self._arrived(message)
                except StreamError as error:
                    self._raise_end(f"the producer sent {error}", closed=False)
                if frame is not None:
                    return frame
            return None

    # --- inside -------------------------------------------------------------------------------------------------------

    def _arrived(self, data: bytes) -> Frame | None:
        if not data:
            self._raise_end("the producer died, or left without closing the stream", closed=False)
        message = messages.decode(data)
        if isinstance(message, messages.End):
            self._raise_end(message.reason, closed=message.closed)
        if self._start is None or isinstance(message, Start):
            self._check_start(message)
            return None
        self._check_frame(message, self._start)
        if self._next is not None:
            self._missed += message.sequence - self._next
        self._next = message.sequence + 1
        self._received += 1
        self._held.add(message.sequence)
        return Frame(self, message)

    def _check_start(self, message: Start | FrameHeader) -> None:
        if not isinstance(message, Start) or self._start is not None:
            raise StreamError("a stream that doesn't begin with START, or begins twice")
        ours = self._buffers
        if ours is not None:
            if message.buffer_count != len(ours.sizes):
                raise StreamError(
                    f"frames in {message.buffer_count} buffers, but this consumer has"
                    f" {len(ours.sizes)} buffers of another collection"
                )
            if 0 != message.buffer_collection_id != ours.collection_id != 0:
                raise StreamError(
                    f"frames of collection {message.buffer_collection_id},"
                    f" but this consumer has buffers of {ours.collection_id}"
                )
        self._start = message

    def _check_frame(self, frame: FrameHeader, start: Start) -> None:
        if frame.index >= start.buffer_count:
            raise StreamError(
                f"a frame in buffer {frame.index}, but the stream has {start.buffer_count} buffers"
            )
        room = None if self._buffers is None else self._buffers.sizes[frame.index]
        if room is not None and frame.size > room:
            raise StreamError(f"a frame of {frame.size} bytes in a buffer of {room}")
        if self._next is not None and frame.sequence < self._next:
            raise StreamError(f"frame {frame.sequence} after {self._next - 1}")

    def _raise_end(self, reason: str, closed: bool) -> NoReturn:
        self._end = reason, closed
        self._held.clear()
        self._waiter.wake()  # the socket may not become readable again, so others who wait must be woken
        raise EndOfStreamError(reason, closed=closed)

    def _send_releases(self) -> None:
        """Send the releases for which the socket has room. Usually it has room for one of each buffer."""
        while self._unsent:
            # Remove it first: the garbage collector may release another frame while this one is being sent.
            sequence = self._unsent.pop()
            try:
                self._sock.send(
                    messages.encode_release(sequence), socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
                )
            except BlockingIOError:
                self._unsent.append(sequence)
                return
            except OSError:  # the producer is gone; the next receive reports that
                self._unsent.clear()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"ended, {self._end[0]}" if self._end else "open"
        return f"<{type(self).__name__} {state}, {self._received} frames>"
