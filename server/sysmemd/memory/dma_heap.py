"""A dma-heap of the kernel. Its buffers are dma-bufs, which devices can import (`linux/dma-heap.h`)."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct

from sysmem_protocol.handles import Handle

from .heaps import HeapSettings, MemfdHeap

#: struct dma_heap_allocation_data: len, fd, fd_flags, heap_flags.
_ALLOCATION = struct.Struct("=QIIQ")
_DMA_HEAP_IOCTL_ALLOC = 0xC018_4800
_DMA_BUF_SET_NAME = 0x4008_6201
#: The kernel's maximum for a name, including the terminating NUL.
_NAME_BYTES = 32


class DmaHeap(MemfdHeap):
    """A heap whose buffers come from a device under /dev/dma_heap, each with one open file for all handles."""

    def __init__(self, settings: HeapSettings) -> None:
        """Open the device. Raises `OSError` with a text that says what is missing."""
        super().__init__(settings)
        assert settings.device is not None
        try:
            self._device = Handle(os.open(settings.device, os.O_RDWR | os.O_CLOEXEC))
        except OSError as error:
            raise OSError(error.errno, _missing(error), settings.device) from error

    def reserve(self, handle: Handle, start: int, length: int) -> None:
        """See :meth:`.Heap.reserve`. The device has already allocated all pages."""

    def close(self) -> None:
        """Close the device. Idempotent. Existing buffers are not affected."""
        self._device.close()

    def _create(self, name: str, size: int, *, writable: bool) -> Handle:
        flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC
        request = bytearray(_ALLOCATION.pack(size, 0, flags, 0))
        fcntl.ioctl(self._device.fileno(), _DMA_HEAP_IOCTL_ALLOC, request)
        made = Handle(_ALLOCATION.unpack(request)[1])
        # The name is only for readers of /sys/kernel/debug/dma_buf.
        with contextlib.suppress(OSError):
            fcntl.ioctl(made.fileno(), _DMA_BUF_SET_NAME, name.encode()[: _NAME_BYTES - 1] + b"\0")
        return made


def _missing(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return (
                "the kernel has no dma-heap of this name (CONFIG_DMABUF_HEAPS_SYSTEM, _CMA),"
                " or /dev is not the machine's"
            )
        case errno.EACCES | errno.EPERM:
            return f"user {os.geteuid()} has no permission to open this dma-heap"
        case _:
            return os.strerror(error.errno or 0)
