"""What the server knows of a descriptor that a client passed in; the memory side of GetVmoInfo."""

from __future__ import annotations

from sysmem_protocol.handles import Handle
from sysmem_protocol.sysmem2 import SingleBufferSettings
from sysmemd.ports import NOBODY, ClientInfo, NoMemoryError, Payer

from .buffer import Buffer
from .collection import Buffers, DeliveredBuffer
from .locks import Kind
from .one_file import OneFileBuffer
from .vmo import access


class NoMoreStrongHandlesError(Exception):
    """A weak handle was asked for, and no strong one is left: NO_MORE_STRONG_VMO_HANDLES."""


class HandleInfo:
    """A descriptor recognised by `Memory.identify`. Of use while the caller keeps that descriptor open."""

    __slots__ = ("_buffer", "_fd", "buffers")

    def __init__(self, buffers: Buffers, buffer: Buffer | OneFileBuffer, fd: int) -> None:
        #: The buffers of the collection, also when that has failed.
        self.buffers = buffers
        self._buffer = buffer
        self._fd = fd

    @property
    def is_weak(self) -> bool:
        """Whether it is a weak handle, or at any rate no strong one.

        A descriptor of a buffer that isn't one of the handles given out (its owner opened it anew, or dropped its lock)
        keeps nothing alive, and so is called weak. Raises `OSError` when the daemon is out of descriptors, on kernels
        before 6.6 only.
        """
        return not self._buffer.is_strong(self._fd)

    @property
    def collection_id(self) -> int:
        """`buffer_collection_id`."""
        return self.buffers.collection_id

    @property
    def buffer_index(self) -> int:
        """Which of the collection's buffers, from 0."""
        return self._buffer.index

    @property
    def settings(self) -> SingleBufferSettings:
        """The pinned settings; shared, so not to be changed."""
        return self.buffers.settings

    @property
    def count(self) -> int:
        """How many buffers the collection was allocated with."""
        return self.buffers.count

    def close_weak_asap(self, payer: Payer = NOBODY) -> Handle:
        """Return the client end of a new event, closed already when no strong handle is left; the caller owns it.

        `payer` pays for the other end. Raises `NoMemoryError` when it can't, or the daemon is out of descriptors.
        """
        self._buffer.look()
        try:
            return self._buffer.open_signal(payer)
        except OSError as error:
            raise NoMemoryError(f"an event for buffer {self.buffer_index}: {error}") from error

    def make_weak(self, client: ClientInfo, payer: Payer = NOBODY) -> DeliveredBuffer:
        """Return a new weak handle with its `close_weak_asap`, owned by the caller.

        It has no more rights than the one passed in; of one that can't be read, `vmo` is un-set. `client` is named in
        the log should the new handle leak. Raises `NoMoreStrongHandlesError`, or `NoMemoryError` when the daemon is out
        of descriptors.
        """
        if not self._buffer.has_strong():
            raise NoMoreStrongHandlesError(
                f"no strong handle to buffer {self.buffer_index} of {self.collection_id} is left"
            )
        readable, writable = access(self._fd)
        signal = self.close_weak_asap(payer)
        try:
            vmo = self._buffer.open(Kind.WEAK, client, writable=writable) if readable else None
        except OSError as error:
            signal.close()
            raise NoMemoryError(f"a handle to buffer {self.buffer_index}: {error}") from error
        return DeliveredBuffer(vmo, signal)
