"""The memory of a buffer: its descriptor, and mappings of it."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from sysmem_protocol.handles import Handle

from ._arguments import descriptor
from ._handles import Held

if TYPE_CHECKING:
    from ._dma_buf import DmaBuf


class Vmo(Held):
    """The memory of one buffer: a descriptor, open for reading or for both reading and writing, as the rights allow.

    A forked child inherits VMOs and their mappings, like all memory, and keeps their buffers alive until it closes them
    or ends. `multiprocessing` passes duplicates to other processes.
    """

    __slots__ = ()

    def fileno(self) -> int:
        """Return the descriptor. This object still owns it.

        Participants that want to lock the buffer against each other use `fcntl.flock`. Each participant's VMO is an
        open file description of its own, so the locks exclude each other, even within one process.

        Of the locks that `fcntl` sets (`fcntl.lockf`, `F_SETLK`, `F_OFD_SETLK`), a program may use those on bytes below
        2**62, with a length, for example `fcntl.lockf(vmo.fileno(), fcntl.LOCK_EX, 1)`. The daemon always holds read
        locks on the bytes from 2**62 on. By these locks it detects which processes still have the buffer. A length of
        0, the default, includes these bytes, so `fcntl.lockf(vmo.fileno(), fcntl.LOCK_EX)` waits forever. Do not unlock
        the bytes from 2**62 on with `F_OFD_SETLK`: this counts as closing the buffer.
        """
        return super().fileno()

    @property
    def size(self) -> int:
        """The size of the memory in bytes, padding included (`raw_vmo_size` of the settings)."""
        return os.fstat(self.fileno()).st_size

    @property
    def writable(self) -> bool:
        """Whether the participant may write."""
        return fcntl.fcntl(self.fileno(), fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY

    def map(self, length: int | None = None) -> Mapping:
        """Return a context manager that maps the first `length` bytes, or all, and yields a memoryview.

        The view is writable if the participant may write. The mapping keeps the buffer alive, also if this VMO is
        closed meanwhile.

        The end of the with-block raises `BufferError` if a slice or an array made from the view still exists. The
        mapping then stays until that is gone. If an exception ends the block, that exception is raised, with a note.
        For arrays that outlive a with-block use :meth:`VmoBuffer.planes`.

        Raises:
            ValueError: `length` is not in 1 to `size`.
        """
        return Mapping(self, 0, length)

    def dma_buf(self, offset: int = 0, size: int | None = None) -> DmaBuf:
        """Return the memory, or a part of it, as a dma-buf, which drivers import.

        A buffer of a dma-heap is a dma-buf already; this returns a duplicate. For other buffers `/dev/udmabuf` makes a
        dma-buf. It is writable even if this VMO is read-only: rights are advisory for users who may open that device.

        Some drivers want a dma-buf for each plane of an image: call this for each of them.

        Args:
            offset: Where the part begins, in bytes: a multiple of the page size.
            size: How many bytes it has, a multiple of the page size; by default all from `offset` on.

        Raises:
            ValueError: The part isn't whole pages of this VMO, or the buffer of a dma-heap was to be divided.
            OSError: The device is missing, or this user may not open it, or the kernel refuses the size. The message
                says which.
        """
        from ._dma_buf import dma_buf

        return dma_buf(self, self.size, offset, size)


class Mapping:
    """A mapping of a VMO, or of a part of it, for the duration of a with-block."""

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
            raise ValueError("this mapping is already entered; call map() again for another one")
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
            # This is not fatal: the mapping is released with the last view. But it exists longer than the with-block,
            # and so does the buffer. An exception that is being raised is more important, and its traceback may be
            # what holds the view.
            from ._holders import holders

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
    """Yield a handle for a request, for an object or a descriptor that the caller keeps.

    Raises `TypeError` for another kind of object, and `ValueError` if the descriptor is not open.
    """
    if value is None or (kind is not None and isinstance(value, kind)):
        yield value
        return
    with Handle(descriptor(value, kind), _leave_open) as handle:
        yield handle


def _leave_open(fd: int) -> None:
    """Do not close a borrowed descriptor; its owner does."""
