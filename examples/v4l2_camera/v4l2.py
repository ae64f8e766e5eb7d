"""The part of V4L2 that a camera needs, for the single- and the multi-planar interface; `linux/videodev2.h`, 64-bit."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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
#: struct v4l2_format with v4l2_pix_format_mplane: type, width, height, pixelformat, field, colorspace,
#: v4l2_plane_pix_formats, how many there are, flags, ycbcr_enc, quantization, xfer_func.
_FORMAT_MPLANE = struct.Struct("=I4x5I160sBBBBB7x8x")
#: struct v4l2_plane_pix_format: sizeimage, bytesperline.
_PIECE = struct.Struct("=II12x")
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
_FLAG_ERROR = 0x40  # V4L2_BUF_FLAG_ERROR


class CameraError(Exception):
    """The device is not a usable camera, or it refused a request."""


class Piece(NamedTuple):
    """One piece of the memory of a frame. The single-planar interface has one, which holds all planes."""

    bytes_per_row: int  # 0 for compressed frames
    size_bytes: int


@dataclass(frozen=True)
class Format:
    """A format of images, as the driver describes it."""

    fourcc: int
    width: int
    height: int
    pieces: tuple[Piece, ...]
    colorspace: int
    quantization: int
    xfer_func: int

    @property
    def name(self) -> str:
        """The four characters of its fourcc."""
        return self.fourcc.to_bytes(4, "little").decode(errors="replace").rstrip()

    @property
    def rows(self) -> list[int]:
        """The bytes per row of each piece."""
        return [piece.bytes_per_row for piece in self.pieces]

    @property
    def size_bytes(self) -> int:
        """The size of all pieces of a frame together, in bytes."""
        return sum(piece.size_bytes for piece in self.pieces)


class Filled(NamedTuple):
    """A buffer that the driver has filled."""

    number: int
    filled: list[slice]  # the bytes of each piece that belong to the frame
    damaged: bool  # the driver lost a part of the frame


class Camera:
    """A capture device."""

    def __init__(self, path: str) -> None:
        """Open the device. Raises `CameraError` if it does not exist, may not be opened or does not stream video."""
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
        #: Whether the driver has the multi-planar interface, in which a frame may have several pieces of memory.
        self.multi_planar = not capabilities & _CAN_CAPTURE
        self._type = _CAPTURE_MPLANE if self.multi_planar else _CAPTURE
        self._pieces = 1  # of a frame in the current format
        if (
            not capabilities & (_CAN_CAPTURE | _CAN_CAPTURE_MPLANE)
            or not capabilities & _CAN_STREAM
        ):
            self.close()
            raise CameraError(f"{path}, {self.name}, doesn't stream video that it captures")

    def fileno(self) -> int:
        """Return a descriptor that is readable when a filled buffer can be dequeued."""
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
                self._call(_ENUM_FMT, request)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return
                raise
            yield _FMTDESC.unpack(request)[4]

    def format(
        self, fourcc: int, width: int, height: int, rows: Sequence[int] = (), *, keep: bool = False
    ) -> Format:
        """Return the driver's format that is nearest to what is asked for.

        Args:
            fourcc: The pixel format.
            width: In pixels.
            height: In pixels.
            rows: The bytes per row of each piece of memory; by default the driver chooses.
            keep: Whether the driver also sets the format, for the buffers that are requested next.
        """
        asked = (self._type, width, height, fourcc, _FIELD_ANY)
        if self.multi_planar:
            pieces = b"".join(_PIECE.pack(0, row) for row in rows)
            packed = _FORMAT_MPLANE.pack(*asked, 0, pieces, len(rows), 0, 0, 0, 0)
        else:
            row = rows[0] if rows else 0
            packed = _FORMAT.pack(*asked, row, 0, 0, _PRIV_MAGIC, 0, 0, 0, 0)
        request = bytearray(packed)
        self._call(_S_FMT if keep else _TRY_FMT, request)
        if self.multi_planar:
            _, width, height, fourcc, _, color, planes, count, _, _, quantization, xfer = (
                _FORMAT_MPLANE.unpack(request)
            )
            each = list(_PIECE.iter_unpack(planes))[:count]
        else:
            _, width, height, fourcc, _, row, size, color, _, _, _, quantization, xfer = (
                _FORMAT.unpack(request)
            )
            each = [(size, row)]
        found = tuple(Piece(row, size) for size, row in each)
        if keep:
            self._pieces = len(found)
        return Format(fourcc, width, height, found, color, quantization, xfer)

    def request_buffers(self, count: int, memory: int) -> int:
        """Request buffers from the driver, and return how many it provides. A count of 0 frees all of them."""
        request = bytearray(_REQUEST.pack(count, self._type, memory))
        self._call(_REQBUFS, request)
        granted: int = _REQUEST.unpack(request)[0]
        return granted

    def map_buffer(self, index: int) -> list[mmap.mmap]:
        """Map one of the driver's own buffers: each of its pieces."""
        _, pieces, _ = self._exchange(_QUERYBUF, index, MMAP)
        return [
            mmap.mmap(self._fd, piece.length, offset=piece.where & 0xFFFF_FFFF, prot=mmap.PROT_READ)
            for piece in pieces
        ]

    def queue(self, index: int, memory: int, dma_bufs: Sequence[tuple[int, int]] = ()) -> None:
        """Give the driver a buffer to fill: one of its own, or the descriptor and size of a dma-buf for each piece."""
        self._exchange(_QBUF, index, memory, dma_bufs)

    def dequeue(self, memory: int) -> Filled | None:
        """Dequeue a filled buffer. Return None if there is none yet."""
        try:
            index, pieces, flags = self._exchange(_DQBUF, 0, memory)
        except BlockingIOError:
            return None
        filled = [slice(piece.begin, piece.end) for piece in pieces]
        return Filled(index, filled, bool(flags & _FLAG_ERROR))

    def stream(self, on: bool) -> None:
        """Begin or end capturing. At the end the driver gives back all queued buffers."""
        self._call(_STREAMON if on else _STREAMOFF, struct.pack("=i", self._type))

    def _call(self, number: int, request: bytearray | bytes) -> None:
        try:
            fcntl.ioctl(self._fd, number, request)
        except OSError as error:
            hint = {errno.EBUSY: "another program uses it", errno.ENODEV: "it was unplugged"}
            if error.errno not in hint:
                raise
            raise CameraError(f"{self.name}: {hint[error.errno]}") from error

    def _exchange(
        self, number: int, index: int, memory: int, dma_bufs: Sequence[tuple[int, int]] = ()
    ) -> tuple[int, list[_Plane], int]:
        """Make an ioctl about a buffer. Return its index, its pieces and its flags."""
        pieces = list(dma_bufs) or [(0, 0)] * self._pieces
        planes = ctypes.create_string_buffer(
            b"".join(_PLANE.pack(0, length, where, 0) for where, length in pieces)
        )
        about = (ctypes.addressof(planes), len(pieces)) if self.multi_planar else pieces[0]
        request = bytearray(_BUFFER.pack(index, self._type, 0, 0, 0, memory, *about))
        self._call(number, request)
        index, _, filled, flags, _, _, where, length = _BUFFER.unpack(request)
        if not self.multi_planar:
            return index, [_Plane(filled, length, where, 0)], flags
        size = len(pieces) * _PLANE.size
        return index, [_Plane(*each) for each in _PLANE.iter_unpack(planes.raw[:size])], flags


class _Plane(NamedTuple):
    """A piece of a buffer, as the driver describes it."""

    end: int
    length: int
    where: int  # its offset for mmap, or its descriptor
    begin: int


def _text(field: bytes) -> str:
    return field.rstrip(b"\0").decode(errors="replace")
