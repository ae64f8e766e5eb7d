"""The buffers of a participant: the tables that deliver them, with methods for what they hold."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, SupportsIndex

from sysmem_protocol import sysmem2
from sysmem_protocol.image_format import ImageFormat
from sysmem_protocol.library import table
from sysmem_protocol.owner import UncopiedTable, WithBlock

from ._handles import EventPair
from ._memory import Memory
from ._vmo import Mapping, Vmo

if TYPE_CHECKING:
    from fractions import Fraction

    from av import VideoFrame
    from numpy.typing import DTypeLike, NDArray
    from PIL.Image import Image


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
