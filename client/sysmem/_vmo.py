"""Buffers as a participant holds them: memory to map, and the tables in which they are delivered."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import select
from abc import ABC, abstractmethod
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from sysmem_protocol import sysmem2
from sysmem_protocol.handles import Handle, WithBlock
from sysmem_protocol.library import table

from ._arguments import descriptor
from ._holders import holders

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sysmem_protocol.sizes import ImageFormat


class NodeRef(Handle):
    """Proof of a node, for `is_alternate_for` on another one; an event that no other process can forge."""

    __slots__ = ()


class EventPair(Handle, ABC):
    """One end of an eventpair, which the daemon closes its end of when something has happened.

    Each face has its own kind, which differs in how it waits: :class:`sysmem.AsyncEventPair` and
    :class:`sysmem.blocking.EventPair`. Both are this class to `isinstance`.
    """

    __slots__ = ()

    @abstractmethod
    def is_closed(self) -> bool:
        """Whether the other end is closed, without waiting."""

    @abstractmethod
    def wait_closed(self, timeout: float | None = None) -> Any:
        """Wait until the other end is closed, `timeout` seconds at most: True, or False when the time is over.

        Awaited in the async face.
        """


def hung_up(fd: int) -> bool:
    """Whether every descriptor of an eventpair's other end is closed."""
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))


class Vmo(Handle):
    """The memory of one buffer: a descriptor that is opened for what the participant's rights allow."""

    __slots__ = ()

    def fileno(self) -> int:
        """The descriptor, still owned by this object.

        Participants that want to lock the buffer against each other use `fcntl.flock`: each participant's VMO is an
        open file description of its own, so they exclude each other, in one process too.

        Of the locks that `fcntl` sets (`fcntl.lockf`, `F_SETLK`, `F_OFD_SETLK`) a program may use those on bytes below
        2**62, with a length, for example `fcntl.lockf(vmo.fileno(), fcntl.LOCK_EX, 1)`. From byte 2**62 on the daemon
        holds read locks for as long as it runs, by which it knows who still has the buffer. A length of 0, which is
        the default, reaches to the end of these bytes: `fcntl.lockf(vmo.fileno(), fcntl.LOCK_EX)` waits for ever.
        Do not unlock the bytes from 2**62 on with `F_OFD_SETLK`: this counts as closing the buffer.
        """
        return super().fileno()

    @property
    def size(self) -> int:
        """Bytes of memory, padding included (`raw_vmo_size` of the settings)."""
        return os.fstat(self.fileno()).st_size

    @property
    def writable(self) -> bool:
        """Whether the rights allow to write."""
        return fcntl.fcntl(self.fileno(), fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY

    def map(self, length: int | None = None) -> Mapping:
        """Map the first `length` bytes, all by default, within a with-block that yields a memoryview.

        The view is writable iff the rights allow. The mapping keeps the buffer alive, also when this VMO is closed
        meanwhile. Raises `ValueError` for a length that isn't in 1 to `size`.

        The end of the with-block raises `BufferError` when something still looks at the memory, a slice or a numpy
        array made of the view; the mapping then stays until that is gone. An exception that ends it goes on, with
        a note of it. Arrays that are to outlive a with-block are what :meth:`VmoBuffer.planes` gives.
        """
        return Mapping(self, 0, length)


class Mapping:
    """A part of a VMO in memory, for the time of a with-block."""

    __slots__ = ("_length", "_map", "_start", "_view", "_vmo")

    def __init__(self, vmo: Vmo, start: int, length: int | None) -> None:
        size = vmo.size
        available = size - start
        if length is None:
            length = available
        if not 0 < length <= available:
            raise ValueError(
                f"can't map {length} bytes from byte {start} of a VMO with {size} bytes"
            )
        self._vmo = vmo
        self._start = start
        self._length = length
        self._map: mmap.mmap | None = None
        self._view: memoryview | None = None

    def __enter__(self) -> memoryview:
        if self._map is not None:
            raise ValueError("this mapping is entered already; call map() again for another")
        access = mmap.ACCESS_WRITE if self._vmo.writable else mmap.ACCESS_READ
        end = self._start + self._length
        self._map = mmap.mmap(self._vmo.fileno(), end, access=access)
        with memoryview(self._map) as whole:
            self._view = whole[self._start : end]
        return self._view

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        mapped, self._map = self._map, None
        view, self._view = self._view, None
        if mapped is None or view is None:
            return
        try:
            view.release()
            mapped.close()
        except BufferError:
            # Nothing is lost: the last view that goes takes the mapping with it. But it is kept longer than the
            # with-block says, and so is the buffer; an exception on its way is the better news though, and its
            # traceback may be what holds the view.
            told = (
                f"the mapping is still in use after its with-block, by {holders(mapped, view, traceback)};"
                " it stays until the last of those is gone"
            )
            if error is None:
                raise BufferError(told) from None
            error.add_note(told)


H = TypeVar("H", bound=Handle)


@contextlib.contextmanager
def borrowed(value: Handle | int | None, kind: type[H] | None = None) -> Iterator[Handle | None]:
    """A handle to put into a request, for an object or a descriptor that stays the caller's.

    Raises `TypeError` for another kind of object, `ValueError` for a descriptor that isn't open.
    """
    if value is None or (kind is not None and isinstance(value, kind)):
        yield value
        return
    handle = Handle(descriptor(value, kind))
    try:
        yield handle
    finally:
        handle.take()


# --- tables with something to do ------------------------------------------------------------------------------------


@table
class VmoBuffer(sysmem2.VmoBuffer[Vmo, EventPair]):
    """One buffer as it is delivered to one participant."""

    def map(self, length: int | None = None) -> Mapping:
        """Map `length` bytes of the buffer from `vmo_usable_start`, all by default; see :meth:`Vmo.map`.

        Raises `ValueError` when the buffer came without a VMO.
        """
        return Mapping(self._mappable(), self.vmo_usable_start or 0, length)

    def planes(
        self,
        image_format: ImageFormat | sysmem2.ImageFormatConstraints,
        size: sysmem2.SizeU | None = None,
    ) -> list[NDArray[Any]]:
        """The planes of an image in the buffer, one numpy array each, without a copy; writable iff the rights allow.

        Rows are the first axis and columns the second; where several samples share a place (the channels of B8G8R8A8,
        Cb and Cr of NV12, the Y0, U, Y1, V of YUY2), they are the third. Packed pixels (R5G6B5, A2R10G10B10) are one
        integer each. For M420 rows of luma and chroma alternate as they do in memory, 2 and 1.

        `image_format` is an :class:`ImageFormat`, or the negotiated constraints: then the image has `size` pixels (the
        least allowed by default) and the least bytes per row. The memory stays mapped, and the buffer alive, as long as
        any of the arrays lives. Raises `ValueError` for a format that isn't in rows, a size or rows that aren't allowed
        or don't fit, or a buffer without a VMO; `TypeError` for another kind of object; `ImportError` without numpy.
        """
        from . import _planes

        vmo, start = self._mappable(), self.vmo_usable_start or 0
        image = _planes.resolve(image_format, size)
        return _planes.arrays(vmo.fileno(), start, vmo.size, image, writable=vmo.writable)

    def _mappable(self) -> Vmo:
        if self.vmo is None:
            raise ValueError(
                "this buffer was delivered without a VMO: the usage or the rights say so"
            )
        return self.vmo

    def close(self) -> None:
        """Close the VMO and the event. Idempotent."""
        for handle in (self.vmo, self.close_weak_asap):
            if handle is not None:
                handle.close()


@table
class BufferCollectionInfo(sysmem2.BufferCollectionInfo[VmoBuffer], WithBlock):
    """The allocated buffers and what holds for each of them. Owns their descriptors; a with-block closes them."""

    def close(self) -> None:
        """Close all VMOs and events. Idempotent. Mappings stay until their own end."""
        for buffer in self.buffers or ():  # a table that a program made itself may lack them
            buffer.close()


@table
class VmoInfo(sysmem2.VmoInfo[Vmo, EventPair], WithBlock):
    """What the daemon knows of a VMO. Owns the descriptors in it; a with-block closes them."""

    def close(self) -> None:
        """Close the weak VMO and the event. Idempotent."""
        for handle in (self.weak_vmo, self.close_weak_asap):
            if handle is not None:
                handle.close()
