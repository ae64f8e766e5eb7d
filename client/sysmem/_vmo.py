"""Buffers of a participant: memory to map, and the tables that deliver it."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

from sysmem_protocol import sysmem2
from sysmem_protocol.handles import Handle
from sysmem_protocol.image_format import ImageFormat
from sysmem_protocol.library import table
from sysmem_protocol.owner import UncopiedTable, WithBlock

from ._arguments import descriptor
from ._handles import EventPair, Held
from ._memory import Memory

if TYPE_CHECKING:
    from fractions import Fraction

    from av import VideoFrame
    from numpy.typing import DTypeLike, NDArray
    from PIL.Image import Image

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


# --- tables with methods --------------------------------------------------------------------------------------------


class _Beside(sysmem2.VmoBuffer[Vmo, EventPair]):
    """The attributes of a buffer that are not fields."""

    __slots__ = ("_kept", "_settings")

    def __post_init__(self) -> None:
        #: The settings of the collection; None if the buffer did not arrive with them.
        self._settings: sysmem2.SingleBufferSettings | None = None
        #: The view of `mapping()`. It is a list, so that only one of several threads can remove it.
        self._kept: list[memoryview] = []


@table
class VmoBuffer(_Beside, UncopiedTable):
    """One buffer as it is delivered to one participant.

    Arrays from :meth:`planes` and :meth:`array`, and slices of :meth:`mapping`, keep the memory mapped and the buffer
    alive as long as one of them exists, also if the buffer is closed meanwhile.
    """

    def map(self, length: int | None = None) -> Mapping:
        """Map the buffer's first `length` bytes, or all of them, starting at `vmo_usable_start`; see :meth:`Vmo.map`.

        Raises:
            ValueError: The buffer came without a VMO, or the length is not between 1 and the buffer's length.
        """
        return Mapping(self._mappable(), self.vmo_usable_start or 0, length)

    def mapping(self) -> memoryview:
        """Map the whole buffer, padding included, until :meth:`close`.

        The view is writable if the participant may write. Every call returns the same view. `close()` releases it;
        slices and arrays made from it keep the memory mapped until they are gone.

        Raises:
            ValueError: The buffer came without a VMO.
        """
        for view in self._kept:
            return view
        view = self._memory().view()
        self._kept.append(view)
        return view

    def planes(
        self,
        image_format: ImageFormat | sysmem2.ImageFormatConstraints | None = None,
        size: sysmem2.SizeU | None = None,
    ) -> list[NDArray[Any]]:
        """Return the planes of an image in the buffer, one numpy array each, without a copy.

        Rows are the first axis and columns the second. If several samples share a position (the channels of B8G8R8A8,
        Cb and Cr of NV12, the Y0, U, Y1, V of YUY2), they are the third. Packed pixels (R5G6B5, A2R10G10B10) are one
        integer each. For M420, rows of luma and chroma alternate as in memory, 2 and 1. The arrays are writable if the
        rights allow it.

        For an image with a `display_rect` the arrays cover that part. If a plane has one sample for several pixels and
        the part's size is not a multiple, the number of samples is rounded up.

        Args:
            image_format: An :class:`ImageFormat`, or constraints, which stand for an image with the minimum bytes per
                row; by default those of the settings.
            size: The size of an image under constraints, in pixels; by default the minimum that is allowed.

        Raises:
            ValueError: The buffers are raw; the format does not have rows; the size, the rows or the part are invalid
                or do not fit the buffer; or the buffer came without a VMO. The message says which, and what would be
                right.
            ImportError: numpy is not installed (`pip install 'sysmem[numpy]'`).
        """
        from . import _planes

        return _planes.planes(*self._memory_of(image_format, size))

    def array(
        self,
        dtype: DTypeLike = "u1",
        shape: SupportsIndex | Sequence[SupportsIndex] | None = None,
        offset: SupportsIndex = 0,
    ) -> NDArray[Any]:
        """Return a numpy array over the buffer, without a copy; writable if the rights allow it.

        Args:
            dtype: The type of an element, as numpy takes it: `numpy.float32`, `"<u2"`; bytes by default.
            shape: The lengths of the axes; by default one axis of as many elements as `size_bytes` has.
            offset: The position of the first element, in bytes from the buffer's start.

        Raises:
            ValueError: The array doesn't fit the buffer, or the buffer came without a VMO.
            TypeError: The elements aren't plain data.
            ImportError: numpy isn't installed (`pip install 'sysmem[numpy]'`).
        """
        from . import _planes

        memory = self._memory()
        return _planes.array(memory, self._size(memory), dtype, shape, offset)

    def image(
        self,
        image_format: ImageFormat | sysmem2.ImageFormatConstraints | None = None,
        size: sysmem2.SizeU | None = None,
        *,
        copy: bool | None = None,
    ) -> Image:
        """Return the image in the buffer as a Pillow image.

        Images of R8G8B8A8, R8G8B8X8, L8 and R8 share the buffer's memory, and keep it mapped. Writes to either are
        visible in both, and Pillow may write if the rights allow it. All other images are copies, in R, G and B.

        Args:
            image_format: The image in the buffer, as for :meth:`planes`.
            size: As for :meth:`planes`.
            copy: False refuses to copy, True always copies; by default it copies if Pillow can't share.

        Raises:
            ValueError: As for :meth:`planes`; or the image would be a copy, and `copy` is False; or it has Y, Cb
                and Cr of a colour space that does not define colours.
            ImportError: Pillow or numpy is not installed (`pip install 'sysmem[pillow]'`).
        """
        from . import _pillow

        return _pillow.image(*self._memory_of(image_format, size), copy=copy)

    def video_frame(
        self,
        image_format: ImageFormat | sysmem2.ImageFormatConstraints | None = None,
        size: sysmem2.SizeU | None = None,
        *,
        pts: int | None = None,
        time_base: Fraction | None = None,
        copy: bool | None = None,
    ) -> VideoFrame:
        """Return the image in the buffer as a frame of PyAV, with its colour space, for encoders and filters.

        Frames of NV12, P010, I420, YV12 (as yuv420p), R8G8B8A8, B8G8R8A8, R8G8B8, B8G8R8, R3G3B2, L8 and R8 share
        the buffer's memory, and keep it mapped. All other frames are copies. If the rights do not allow writing,
        FFmpeg's writes into the frame are visible only in this process.

        An encoder has read the frame when `encode()` returns, unless it encodes several frames at once
        (`thread_type` FRAME). In that case do not release the buffer before the packets have arrived.

        Args:
            image_format: The image in the buffer, as for :meth:`planes`.
            size: As for :meth:`planes`.
            pts: The frame's time, in units of `time_base`.
            time_base: The unit, in seconds.
            copy: False refuses to copy, True always copies; by default it copies if PyAV can't share.

        Raises:
            ValueError: As for :meth:`planes`; or FFmpeg has no such format; or the frame would be a copy, and `copy`
                is False.
            ImportError: PyAV or numpy is not installed (`pip install 'sysmem[av]'`).
        """
        from . import _pyav

        return _pyav.video_frame(
            *self._memory_of(image_format, size), pts=pts, time_base=time_base, copy=copy
        )

    def fill_from(
        self,
        frame: VideoFrame,
        image_format: ImageFormat | sysmem2.ImageFormatConstraints | None = None,
        size: sysmem2.SizeU | None = None,
    ) -> None:
        """Write a frame of PyAV into the buffer, for example from a decoder or a camera.

        A frame of another size, format or colour space is converted. A frame that does not define the meaning of its Y,
        Cb and Cr is assumed to have the buffer's colour space.

        Args:
            frame: An `av.VideoFrame`.
            image_format: The image to write, as for :meth:`planes`.
            size: As for :meth:`planes`.

        Raises:
            ValueError: As for :meth:`planes`; or FFmpeg has no such format; or the rights do not allow writing.
            TypeError: `frame` is not an `av.VideoFrame`.
            ImportError: PyAV or numpy is not installed (`pip install 'sysmem[av]'`).
        """
        from . import _pyav

        _pyav.fill(*self._memory_of(image_format, size), frame)

    def _memory_of(
        self,
        image_format: ImageFormat | sysmem2.ImageFormatConstraints | None,
        size: sysmem2.SizeU | None,
    ) -> tuple[Memory, int, ImageFormat]:
        """Return the buffer's memory, its bytes without padding, and the image that it holds."""
        if image_format is None:
            image = _image(self._settings, size)
        elif isinstance(image_format, ImageFormat):
            image = image_format
            if size is not None and size != image.size:
                raise ValueError(f"the image format has the size {image.size}, not {size}")
        else:
            image = ImageFormat.of(image_format, size)
        memory = self._memory()
        return memory, self._size(memory), image

    def _mappable(self) -> Vmo:
        if self.vmo is None:
            raise ValueError(
                "this buffer was delivered without a VMO, because of the usage or the rights"
            )
        return self.vmo

    def _memory(self) -> Memory:
        vmo, start = self._mappable(), self.vmo_usable_start or 0
        return Memory(vmo.fileno(), start, vmo.size - start, vmo.writable)

    def _size(self, memory: Memory) -> int:
        """Return the buffer's size in bytes without padding, or with it if that is not known."""
        if self._settings is None:
            return memory.size
        return min(self._settings.buffer_settings.size_bytes, memory.size)

    def close(self) -> None:
        """Close the VMO and the event, and release the view of :meth:`mapping`. Idempotent."""
        for handle in (self.vmo, self.close_weak_asap):
            if handle is not None:
                handle.close()
        while self._kept:
            # Another thread may have removed it, and objects that use the memory prevent its release.
            with contextlib.suppress(IndexError, BufferError):
                self._kept.pop().release()


@table
class BufferCollectionInfo(sysmem2.BufferCollectionInfo[VmoBuffer], WithBlock, UncopiedTable):
    """The allocated buffers and their settings. It owns the descriptors of the buffers; a with-block closes them."""

    def __post_init__(self) -> None:
        buffers: Any = self.buffers  # in a table that a program created, this may be anything
        for buffer in buffers if isinstance(buffers, list) else ():
            if isinstance(buffer, VmoBuffer):
                buffer._settings = self.settings

    @property
    def image(self) -> ImageFormat:
        """The smallest image that the settings allow, with the minimum bytes per row, which most participants use.

        All participants have the same settings, and so the same image.

        Raises:
            ValueError: The buffers are raw, or an image in this layout has no rows.
        """
        return _image(self.settings, None)

    def image_of(self, size: sysmem2.SizeU) -> ImageFormat:
        """Return the image of a given size that the settings allow, with the minimum bytes per row.

        Args:
            size: Width and height in pixels.

        Raises:
            ValueError: The buffers are raw, or the settings do not allow the size. The message says which field, and
                which sizes are allowed.
        """
        return _image(self.settings, size)

    def close(self) -> None:
        """Close all VMOs and events, as :meth:`VmoBuffer.close` does. Idempotent."""
        for buffer in self.buffers or ():  # in a table that a program created, they may be missing
            buffer.close()


def _image(
    settings: sysmem2.SingleBufferSettings | None, size: sysmem2.SizeU | None
) -> ImageFormat:
    """Return the image of a given size under settings; see :meth:`BufferCollectionInfo.image_of`."""
    if settings is None:
        raise ValueError("the settings of this buffer are not known: pass an image format")
    if settings.image_format_constraints is None:
        raise ValueError("the buffers are raw: no participant asked for an image format")
    image = ImageFormat.of(settings.image_format_constraints, size)
    needed, there = image.byte_size(), settings.buffer_settings.size_bytes
    if needed is None or needed > there:
        raise ValueError(
            f"an image of {image.size.width} × {image.size.height} pixels takes {needed} bytes,"
            f" the buffers have {there}"
        )
    return image


@table
class VmoInfo(sysmem2.VmoInfo[Vmo, EventPair], WithBlock, UncopiedTable):
    """The daemon's information about a VMO. It owns the descriptors in it; a with-block closes them."""

    def close(self) -> None:
        """Close the weak VMO and the event. Idempotent."""
        for handle in (self.weak_vmo, self.close_weak_asap):
            if handle is not None:
                handle.close()
