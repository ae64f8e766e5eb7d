"""As much of V4L2 as a camera with one piece of memory a frame needs; `linux/videodev2.h`, 64-bit."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

MMAP, DMABUF = 1, 4  # V4L2_MEMORY_*
_CAPTURE, _CAPTURE_MPLANE = 1, 9  # V4L2_BUF_TYPE_VIDEO_*
_CAN_CAPTURE, _CAN_CAPTURE_MPLANE = 0x1, 0x1000  # V4L2_CAP_VIDEO_*
_CAN_STREAM, _DEVICE_CAPS = 0x0400_0000, 0x8000_0000
_WRITE, _READ = 1, 2


def _ioctl(direction: int, number: int, size: int) -> int:
    return direction << 30 | size << 16 | ord("V") << 8 | number


#: struct v4l2_capability: driver, card, bus, version, capabilities, device_caps.
_CAPABILITY = struct.Struct("=16s32s32sIII12x")
#: struct v4l2_fmtdesc: index, type, flags, description, pixelformat, mbus_code.
_FMTDESC = struct.Struct("=III32sI16x")
#: struct v4l2_format with v4l2_pix_format: type, width, height, pixelformat, field, bytesperline, sizeimage,
#: colorspace, priv, flags, ycbcr_enc, quantization, xfer_func.
_FORMAT = struct.Struct("=I4x12I152x")
#: struct v4l2_format with v4l2_pix_format_mplane: type, width, height, pixelformat, field, colorspace, sizeimage and
#: bytesperline of the first piece of memory, how many there are, flags, ycbcr_enc, quantization, xfer_func.
_FORMAT_MPLANE = struct.Struct("=I4x5III12x140xBBBBB7x8x")
#: struct v4l2_requestbuffers: count, type, memory.
_REQUEST = struct.Struct("=III8x")
#: struct v4l2_buffer: index, type, bytesused, flags, …, sequence, memory, then offset or descriptor, and length; or the
#: address of v4l2_planes, and how many.
_BUFFER = struct.Struct("=IIII8x16x16xIIqI12x")
#: struct v4l2_plane: bytesused, length, offset or descriptor, data_offset.
_PLANE = struct.Struct("=IIqI44x")

_QUERYCAP = _ioctl(_READ, 0, _CAPABILITY.size)
_ENUM_FMT = _ioctl(_READ | _WRITE, 2, _FMTDESC.size)
_S_FMT = _ioctl(_READ | _WRITE, 5, _FORMAT.size)
_REQBUFS = _ioctl(_READ | _WRITE, 8, _REQUEST.size)
_QUERYBUF = _ioctl(_READ | _WRITE, 9, _BUFFER.size)
_QBUF = _ioctl(_READ | _WRITE, 15, _BUFFER.size)
_DQBUF = _ioctl(_READ | _WRITE, 17, _BUFFER.size)
_STREAMON, _STREAMOFF = _ioctl(_WRITE, 18, 4), _ioctl(_WRITE, 19, 4)
_TRY_FMT = _ioctl(_READ | _WRITE, 64, _FORMAT.size)
_FIELD_ANY = 0
_PRIV_MAGIC = 0xFEEDCAFE


class CameraError(Exception):
    """The device isn't a camera that can be used, or refused something."""


@dataclass(frozen=True)
class Format:
    """A format of images, as the driver says it."""

    fourcc: int
    width: int
    height: int
    bytes_per_row: int
    size_bytes: int
    colorspace: int
    quantization: int
    xfer_func: int
    #: How many pieces of memory a frame takes.
    pieces: int = 1


class Camera:
    """A capture device."""

    def __init__(self, path: str) -> None:
        """Open it. Raises `CameraError` if it isn't there, isn't ours to open or doesn't stream video."""
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            hint = {
                errno.ENOENT: "there is no such camera (`ls /dev/video*`)",
                errno.EACCES: f"user {os.geteuid()} may not open it (is the user in the group video?)",
                errno.EBUSY: "another program has it",
            }
            raise CameraError(f"{path}: {hint.get(error.errno or 0, error.strerror)}") from error
        try:
            answer = fcntl.ioctl(self._fd, _QUERYCAP, bytes(_CAPABILITY.size))
        except OSError as error:
            self.close()
            raise CameraError(f"{path} is no V4L2 device: {error.strerror}") from error
        driver, card, _, _, capabilities, device = _CAPABILITY.unpack(answer)
        self.name = f"{_text(card)} ({_text(driver)})"
        if capabilities & _DEVICE_CAPS:
            capabilities = device
        #: Whether the driver speaks of several pieces of memory a frame (the multi-planar API), though it be one.
        self.multi_planar = not capabilities & _CAN_CAPTURE
        self._type = _CAPTURE_MPLANE if self.multi_planar else _CAPTURE
        if (
            not capabilities & (_CAN_CAPTURE | _CAN_CAPTURE_MPLANE)
            or not capabilities & _CAN_STREAM
        ):
            self.close()
            raise CameraError(f"{path}, {self.name}, doesn't stream video that it captures")

    def fileno(self) -> int:
        """Readable when a filled buffer can be dequeued."""
        return self._fd

    def close(self) -> None:
        """Close the device: it lets go of all buffers. Idempotent."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def fourccs(self) -> Iterator[int]:
        """Yield the pixel formats that the driver offers (VIDIOC_ENUM_FMT)."""
        for index in range(1 << 16):
            request = bytearray(_FMTDESC.pack(index, self._type, 0, b"", 0))
            try:
                fcntl.ioctl(self._fd, _ENUM_FMT, request)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return
                raise
            yield _FMTDESC.unpack(request)[4]

    def format(
        self, fourcc: int, width: int, height: int, bytes_per_row: int = 0, *, keep: bool = False
    ) -> Format:
        """Return the format that comes nearest to what is asked for; with `keep` the driver also takes it."""
        asked = (self._type, width, height, fourcc, _FIELD_ANY)
        if self.multi_planar:
            packed = _FORMAT_MPLANE.pack(*asked, 0, 0, bytes_per_row, 1, 0, 0, 0, 0)
        else:
            packed = _FORMAT.pack(*asked, bytes_per_row, 0, 0, _PRIV_MAGIC, 0, 0, 0, 0)
        request = bytearray(packed)
        fcntl.ioctl(self._fd, _S_FMT if keep else _TRY_FMT, request)
        if self.multi_planar:
            _, width, height, fourcc, _, color, size, row, pieces, _, _, quantization, xfer = (
                _FORMAT_MPLANE.unpack(request)
            )
            return Format(fourcc, width, height, row, size, color, quantization, xfer, pieces)
        _, width, height, fourcc, _, row, size, color, _, _, _, quantization, xfer = _FORMAT.unpack(
            request
        )
        return Format(fourcc, width, height, row, size, color, quantization, xfer)

    def request_buffers(self, count: int, memory: int) -> int:
        """Have the driver know that many buffers, and return how many it takes; 0 lets go of all."""
        request = bytearray(_REQUEST.pack(count, self._type, memory))
        fcntl.ioctl(self._fd, _REQBUFS, request)
        granted: int = _REQUEST.unpack(request)[0]
        return granted

    def map_buffer(self, index: int) -> mmap.mmap:
        """Map one of the driver's own buffers."""
        _, _, offset, length = self._exchange(_QUERYBUF, index, MMAP)
        return mmap.mmap(self._fd, length, offset=offset & 0xFFFF_FFFF, prot=mmap.PROT_READ)

    def queue(self, index: int, memory: int, dma_buf: int = 0, size: int = 0) -> None:
        """Give the driver a buffer to fill: one of its own, or a dma-buf of `size` bytes."""
        self._exchange(_QBUF, index, memory, dma_buf, size)

    def dequeue(self, memory: int) -> tuple[int, int] | None:
        """Take back a filled buffer: its index and how many bytes it holds; None if there is none yet."""
        try:
            index, filled, _, _ = self._exchange(_DQBUF, 0, memory)
        except BlockingIOError:
            return None
        return index, filled

    def stream(self, on: bool) -> None:
        """Begin or end to capture; the end gives all queued buffers back."""
        fcntl.ioctl(self._fd, _STREAMON if on else _STREAMOFF, struct.pack("=i", self._type))

    def _exchange(
        self, number: int, index: int, memory: int, where: int = 0, length: int = 0
    ) -> tuple[int, int, int, int]:
        """Tell or ask about a buffer: its index, how many bytes are filled, its offset or descriptor, its length."""
        plane = ctypes.create_string_buffer(_PLANE.pack(0, length, where, 0), _PLANE.size)
        about = (ctypes.addressof(plane), 1) if self.multi_planar else (where, length)
        request = bytearray(_BUFFER.pack(index, self._type, 0, 0, 0, memory, *about))
        fcntl.ioctl(self._fd, number, request)
        index, _, filled, _, _, _, where, length = _BUFFER.unpack(request)
        if self.multi_planar:
            filled, length, where, _ = _PLANE.unpack(plane)
        return index, filled, where, length


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode(errors="replace")
