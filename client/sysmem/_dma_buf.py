"""A buffer as a dma-buf, for devices: exported by `/dev/udmabuf`, unless the buffer is a dma-buf already.

The numbers are those of `linux/udmabuf.h` and `linux/dma-buf.h`.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from collections.abc import Iterator

from sysmem_protocol.handles import Handle
from sysmem_protocol.kinds import is_dma_buf
from sysmem_protocol.owner import Cell, owned

from ._handles import Held

DEVICE = "/dev/udmabuf"
_SIZE_LIMIT = "/sys/module/udmabuf/parameters/size_limit_mb"

#: struct udmabuf_create: memfd, flags, offset, size.
_CREATE = struct.Struct("=IIQQ")
_UDMABUF_CREATE = 0x4018_7542
_UDMABUF_FLAGS_CLOEXEC = 1
#: struct dma_buf_sync: flags.
_SYNC = struct.Struct("=Q")
_DMA_BUF_IOCTL_SYNC = 0x4008_6200
_SYNC_READ, _SYNC_WRITE, _SYNC_START, _SYNC_END = 1, 2, 0, 4


class DmaBuf(Held):
    """A buffer's memory as a dma-buf: a descriptor that V4L2, DRM and other drivers import.

    The buffer lives at least as long as this object. The daemon doesn't see the dma-buf itself, but a handle of the VMO
    that this object has, too. After `close()` it may treat the buffer as free while a device still uses the pages, so
    close this object when the device is done.

    Everybody who has a dma-buf may write into it, even if the VMO is read-only.
    """

    __slots__ = ("_vmo",)

    def __init__(self, owned: int | Cell, vmo: Handle | None = None) -> None:
        """Take ownership of a descriptor, or of the one in a cell, and of a handle of the VMO whose memory it is."""
        self._vmo = vmo
        super().__init__(owned)

    @property
    def size(self) -> int:
        """The size of the memory in bytes."""
        return os.lseek(self.fileno(), 0, os.SEEK_END)

    @contextlib.contextmanager
    def sync(self, read: bool = True, write: bool = False) -> Iterator[None]:
        """Make devices' writes visible to the CPU at the start of a with-block, and the CPU's to devices at its end.

        Accesses through a mapping must be inside of the block, and accesses by a device outside (DMA_BUF_IOCTL_SYNC).

        Args:
            read: Whether the CPU reads.
            write: Whether the CPU writes.

        Raises:
            ValueError: Both are false.
            OSError: The driver failed.
        """
        flags = _SYNC_READ * read | _SYNC_WRITE * write
        if not flags:
            raise ValueError("sync() needs read=True, write=True, or both")
        self._sync(flags | _SYNC_START)
        try:
            yield
        finally:
            self._sync(flags | _SYNC_END)

    def _sync(self, flags: int) -> None:
        fcntl.ioctl(self.fileno(), _DMA_BUF_IOCTL_SYNC, _SYNC.pack(flags))

    def close(self) -> None:
        """Close the dma-buf, and the handle that keeps the buffer alive. Idempotent."""
        super().close()
        if self._vmo is not None:
            self._vmo.close()


def dma_buf(vmo: Handle, whole: int, offset: int, size: int | None) -> DmaBuf:
    """Return memory of a VMO of `whole` bytes as a dma-buf; see :meth:`Vmo.dma_buf`."""
    if size is None:
        size = whole - offset
    if (offset, size) != (0, whole):
        _check_part(vmo, whole, offset, size)
    if is_dma_buf(vmo.fileno()):
        return vmo.duplicate().move(DmaBuf)
    kept = vmo.duplicate()
    try:
        with Handle(_open_device()) as device:
            request = _CREATE.pack(kept.fileno(), _UDMABUF_FLAGS_CLOEXEC, offset, size)
            made = owned(fcntl.ioctl, device.fileno(), _UDMABUF_CREATE, bytearray(request))
            return DmaBuf(made, kept)
    except BaseException as error:
        kept.close()
        if isinstance(error, OSError) and error.filename is None:
            raise OSError(error.errno, _why(error, size)) from error
        raise


def _check_part(vmo: Handle, whole: int, offset: int, size: int) -> None:
    """Raise `ValueError` unless a part of a VMO can be a dma-buf."""
    page = os.sysconf("SC_PAGE_SIZE")
    if offset < 0 or size < 1 or offset + size > whole:
        raise ValueError(f"{size} bytes from byte {offset} aren't a part of {whole} bytes")
    if offset % page or size % page:
        raise ValueError(
            f"a dma-buf has whole pages of {page} bytes, and can't be {size} bytes from byte {offset}"
        )
    if is_dma_buf(vmo.fileno()):
        raise ValueError("a buffer of a dma-heap is one dma-buf, and can't be divided")


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise OSError(error.errno, _missing(error), DEVICE) from error


def _missing(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return (
                "a dma-buf needs a kernel with CONFIG_UDMABUF (`modprobe udmabuf` if it is a module), and the machine's"
                " /dev; there is no such device"
            )
        case errno.ENODEV | errno.ENXIO:
            return "the driver of the device is not loaded: modprobe udmabuf"
        case errno.EACCES | errno.EPERM:
            return (
                f"user {os.geteuid()} has no permission to open the device (its group is often kvm)"
            )
        case _:
            return os.strerror(error.errno or 0)


def _why(error: OSError, size: int) -> str:
    """Return why the kernel makes no dma-buf of `size` bytes of a VMO."""
    with contextlib.suppress(OSError, ValueError):
        with open(_SIZE_LIMIT) as file:
            limit = int(file.read())
        if error.errno == errno.EINVAL and size > limit << 20:
            return (
                f"{size} bytes are more than the kernel's limit for a dma-buf, {limit} MiB"
                f" ({_SIZE_LIMIT} may be raised)"
            )
    page = os.sysconf("SC_PAGE_SIZE")
    if size % page:
        return f"a dma-buf consists of whole pages, and the VMO has {size} bytes, not a multiple of {page}"
    if error.errno in (errno.EINVAL, errno.EBADFD):
        return (
            f"only a memfd that is sealed against shrinking can become a dma-buf ({error.strerror})"
        )
    return f"the kernel makes no dma-buf of this VMO: {error.strerror}"
