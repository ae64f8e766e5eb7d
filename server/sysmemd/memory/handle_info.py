"""The server's information about a descriptor from a client; the memory part of GetVmoInfo."""

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
    """A weak handle was requested, and no strong one is left: NO_MORE_STRONG_VMO_HANDLES."""


class HandleInfo:
    """A descriptor recognised by `Memory.identify`. Valid while the caller keeps that descriptor open."""

    __slots__ = ("_buffer", "_fd", "buffers")

    def __init__(self, buffers: Buffers, buffer: Buffer | OneFileBuffer, fd: int) -> None:
        #: The buffers of the collection, also after it has failed.
        self.buffers = buffers
        self._buffer = buffer
        self._fd = fd

    @property
    def is_weak(self) -> bool:
        """Whether it is not a strong handle.

        A descriptor that is not one of the delivered handles (its owner reopened it, or dropped its lock) keeps nothing
        alive, so it counts as weak. Raises `OSError` if the daemon is out of descriptors, only on kernels before 6.6.
        """
        return not self._buffer.is_strong(self._fd)

    @property
    def collection_id(self) -> int:
        """The `buffer_collection_id`."""
        return self.buffers.collection_id

    @property
    def buffer_index(self) -> int:
        """The buffer's index in the collection, from 0."""
        return self._buffer.index

    @property
    def settings(self) -> SingleBufferSettings:
        """The pinned settings. They are shared and must not be changed."""
        return self.buffers.settings

    @property
    def count(self) -> int:
        """The number of buffers that the collection was allocated with."""
        return self.buffers.count

    def close_weak_asap(self, payer: Payer = NOBODY) -> Handle:
        """Return the client end of a new event, already closed if no strong handle is left. The caller owns it.

        `payer` is charged for the other end. Raises `NoMemoryError` if the quota is exceeded, or if the daemon is out
        of descriptors.
        """
        self._buffer.look()
        try:
            return self._buffer.open_signal(payer)
        except OSError as error:
            raise NoMemoryError(f"an event for buffer {self.buffer_index}: {error}") from error

    def make_weak(self, client: ClientInfo, payer: Payer = NOBODY) -> DeliveredBuffer:
        """Return a new weak handle with its `close_weak_asap`. The caller owns both.

        It has no more rights than the given one. If that is not readable, `vmo` is un-set. `client` is named in the log
        if the new handle leaks. Raises `NoMoreStrongHandlesError`, or `NoMemoryError` if the daemon is out of
        descriptors.
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
