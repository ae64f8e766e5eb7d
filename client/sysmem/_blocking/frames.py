# Made from _async/frames.py by client/generate_blocking.py; change that one.

"""Frames from one producer to several consumers, through buffers that they share."""

from __future__ import annotations

from typing import Self

from .._frames.ends import EndOfStreamError
from .._frames.receiver import Frame, Receiver
from .._frames.sender import Sender
from .waiter import Waiter
from .with_block import WithBlock


class FrameSender(Sender):
    """The producer's end: fills buffers, and sends the frames in them to every consumer.

    ::

        with frames.FrameSender(info, sock) as sender:
            while recording:
                index = sender.acquire()
                ...  # write into info.buffers[index]
                sender.send(index, metadata={"exposure": 0.01})

    The producer gets a buffer back when each consumer has released its frame, closed its end or died. Nothing is
    copied, and the daemon has no part in it. `close()` ends the stream, and so does the end of a with-block. If this
    process dies, the kernel tells the consumers.

    Args:
        buffers: The collection's buffers, which the caller still owns, or their number.
        socks: The producer's ends of connections to consumers (:meth:`add`). The sender takes ownership.
        policy: What happens to a new frame when such a consumer has as many as it may hold.
        hold: The greatest number of frames that such a consumer may have at once; see :meth:`add`.
    """

    _waiter: Waiter
    _make_waiter = Waiter

    def acquire(self, *, timeout: float | None = None) -> int:
        """Wait for a free buffer, and return its index. The producer may write into it.

        `send()` or `cancel()` must follow. The producer may have several buffers at once.

        Raises:
            TimeoutError: No buffer became free within `timeout` seconds. The text says who has them.
        """
        return self._waiter.until(self._take, timeout, self._nothing_free)


class FrameReceiver(Receiver, WithBlock):
    """A consumer's end: receives the frames of one producer.

    ::

        with frames.FrameReceiver(sock, info) as receiver:
            for frame in receiver:
                with frame:  # releases it at the end
                    ...  # read frame.size bytes of frame.buffer

    Iteration stops when the producer closes the stream, and raises :class:`EndOfStreamError` if the producer dies.
    Frames that aren't released by then stay readable, because the memory lives as long as it is mapped.

    Args:
        sock: The consumer's end of the connection. The receiver takes ownership.
        buffers: This participant's buffers of the same collection, for `frame.buffer`. The caller still owns them. If
            they are given, a stream of another collection is refused.
    """

    _waiter: Waiter
    _make_waiter = Waiter

    def receive(self, *, timeout: float | None = None) -> Frame:
        """Wait for the next frame, and return it. The caller releases it.

        Raises:
            EndOfStreamError: There are no more frames. All later calls raise it too.
            TimeoutError: No frame came within `timeout` seconds.
        """
        return self._waiter.until(self._take, timeout, lambda: "no frame arrived in time")

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Frame:
        try:
            return self.receive()
        except EndOfStreamError as end:
            if not end.closed:
                raise
        raise StopIteration
