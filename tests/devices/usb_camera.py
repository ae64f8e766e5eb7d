"""A USB camera that supports only MJPEG, like most laptop cameras at their large sizes. A thread implements it.

The kernel's `vhci_hcd` (USB/IP) treats a socket as a port of a USB hub, and sends the host's requests through it. So
the driver is the real one, `uvcvideo`. The numbers are those of the USB Video Class 1.1 and of
`Documentation/usb/usbip_protocol.rst`. Frames are sent over a bulk endpoint.
"""

from __future__ import annotations

import itertools
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from pathlib import Path

HUB = Path("/sys/devices/platform/vhci_hcd.0")
WIDTH, HEIGHT = 320, 180
_INTERVAL = 0.1  # seconds from one frame to the next
_LARGEST = 1 << 17  # bytes of a frame
_HIGH_SPEED = 3

# --- what it says of itself -------------------------------------------------------------------------------------------

_VIDEO, _CONTROL, _STREAMING = 0x0E, 1, 2  # class and subclasses
_HUNDRED_NS = round(_INTERVAL * 10_000_000)


def _described(*values: int, layout: str = "") -> bytes:
    """Return a descriptor, which begins with its length. All values are bytes unless a layout says otherwise."""
    content = struct.pack("<" + (layout or f"{len(values)}B"), *values)
    return bytes([len(content) + 1]) + content


_DEVICE = _described(
    *(1, 0x0200, 0xEF, 2, 1, 64, 0x1D6B, 0x0102, 0x0100, 0, 1, 0, 1), layout="BHBBBBHHHBBBB"
)
_CAMERA_TERMINAL = _described(
    *(0x24, 2, 1, 0x0201, 0, 0, 0, 0, 0, 3, 0, 0, 0), layout="BBBHBBHHHBBBB"
)
_OUTPUT_TERMINAL = _described(0x24, 3, 2, 0x0101, 0, 1, 0, layout="BBBHBBB")
_CONTROL_HEADER = _described(
    *(0x24, 1, 0x0110, 13 + len(_CAMERA_TERMINAL + _OUTPUT_TERMINAL), 48_000_000, 1, 1),
    layout="BBHHIBB",
)
_MJPEG = _described(0x24, 6, 1, 1, 1, 1, 0, 0, 0, 0)
_FRAME = _described(
    *(0x24, 7, 1, 0, WIDTH, HEIGHT, 1 << 20, 1 << 24, _LARGEST, _HUNDRED_NS, 1, _HUNDRED_NS),
    layout="BBBBHHIIIIBI",
)
_COLORS = _described(0x24, 0x0D, 1, 1, 4)  # BT.709 primaries and transfer, BT.601 matrix
_STREAM_HEADER = _described(
    *(0x24, 1, 1, 14 + len(_MJPEG + _FRAME + _COLORS), 0x81, 0, 2, 0, 0, 0, 1, 0),
    layout="BBBHBBBBBBBB",
)
_INTERFACES = b"".join(
    [
        _described(0x0B, 0, 2, _VIDEO, 3, 0, 0),  # these two interfaces belong together
        _described(4, 0, 0, 0, _VIDEO, _CONTROL, 0, 0),
        *(_CONTROL_HEADER, _CAMERA_TERMINAL, _OUTPUT_TERMINAL),
        _described(4, 1, 0, 1, _VIDEO, _STREAMING, 0, 0),
        *(_STREAM_HEADER, _MJPEG, _FRAME, _COLORS),
        _described(5, 0x81, 2, 512, 0, layout="BBBHB"),  # the endpoint for frames
    ]
)
_CONFIGURATION = (
    _described(2, 9 + len(_INTERFACES), 2, 1, 0, 0x80, 50, layout="BHBBBBB") + _INTERFACES
)
_NAME = _described(3, *"MJPEG only".encode("utf-16-le"))
_LANGUAGES = _described(3, 0x0409, layout="BH")
#: The kind of descriptor that `wValue` of GET_DESCRIPTOR asks for.
_DESCRIPTORS = {
    0x0100: _DEVICE,
    0x0200: _CONFIGURATION,
    0x0300: _LANGUAGES,
    0x0301: _NAME,
}
#: The streaming parameters (`uvc_streaming_control`): format 1 and frame 1, whatever the host asks for.
_PROBE = struct.pack(
    "<HBBIHHHHHIIIBBBB",
    *(0, 1, 1, _HUNDRED_NS, 0, 0, 0, 0, 0, _LARGEST, _LARGEST, 48_000_000, 0, 0, 0, 0),
)
_GET_LENGTH, _GET_INFO = 0x85, 0x86

# --- USB/IP -----------------------------------------------------------------------------------------------------------

_HEADER = struct.Struct(">IIIII")  # command, number, device, direction, endpoint
_SUBMIT = struct.Struct(">Iiiii8s")  # flags, length, start frame, packets, interval, setup
_RETURN = struct.Struct(">iiiii8x")  # status, length, start frame, packets, errors
_CMD_SUBMIT, _CMD_UNLINK, _RET_SUBMIT, _RET_UNLINK = 1, 2, 3, 4
_IN = 1
_STALLED, _UNLINKED = -32, -104  # -EPIPE, -ECONNRESET


class UsbCamera:
    """A camera that is plugged in within a with-block. It repeats some JPEG pictures."""

    def __init__(self, pictures: Sequence[bytes]) -> None:
        self._pictures = itertools.cycle(pictures)
        self._waiting: dict[
            int, int
        ] = {}  # the numbers and lengths of the host's requests for frames
        self._next = 0.0
        self._frame_id = 0

    def __enter__(self) -> UsbCamera:
        self._ours, theirs = socket.socketpair()
        with theirs:
            (HUB / "attach").write_text(f"0 {theirs.fileno()} 1 {_HIGH_SPEED}")
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        (HUB / "detach").write_text("0")  # shuts the connection down
        self._thread.join()
        self._ours.close()

    def _serve(self) -> None:
        while True:
            pause = max(self._next - time.monotonic(), 0) if self._waiting else None
            readable, _, _ = select.select([self._ours], [], [], pause)
            if not readable:
                self._send_frame()
            elif not (header := self._ours.recv(_HEADER.size, socket.MSG_WAITALL)):
                return
            else:
                self._answer(*_HEADER.unpack(header))

    def _answer(self, command: int, number: int, _: int, direction: int, endpoint: int) -> None:
        rest = self._ours.recv(_SUBMIT.size, socket.MSG_WAITALL)
        if command == _CMD_UNLINK:
            [unlinked] = struct.unpack_from(">I", rest)
            status = _UNLINKED if self._waiting.pop(unlinked, None) is not None else 0
            self._ours.sendall(
                _HEADER.pack(_RET_UNLINK, number, 0, 0, 0) + _RETURN.pack(status, 0, 0, 0, 0)
            )
            return
        _, length, _, _, _, setup = _SUBMIT.unpack(rest)
        if endpoint:
            self._waiting[number] = length
        elif direction == _IN:
            content = self._control(*struct.unpack("<BBHHH", setup))
            self._return(number, content if content is None else content[:length])
        else:
            if length:
                self._ours.recv(length, socket.MSG_WAITALL)  # it streams in one direction only
            self._return(number, b"", length)

    def _control(self, kind: int, request: int, value: int, _: int, length: int) -> bytes | None:
        """Return the answer to a control request of the host; None refuses it."""
        if (kind, request) == (0x80, 6):
            return _DESCRIPTORS.get(value)
        if kind == 0x80:  # GET_STATUS, GET_CONFIGURATION
            return bytes(length)
        if request == _GET_LENGTH:
            return struct.pack("<H", len(_PROBE))
        return b"\3" if request == _GET_INFO else _PROBE

    def _send_frame(self) -> None:
        """Answer the oldest request for a frame with a payload header and a picture."""
        number = next(iter(self._waiting))
        del self._waiting[number]
        self._frame_id ^= 1
        self._return(number, bytes([2, 0x82 | self._frame_id]) + next(self._pictures))
        self._next = time.monotonic() + _INTERVAL

    def _return(self, number: int, content: bytes | None, length: int | None = None) -> None:
        status = _STALLED if content is None else 0
        content = content or b""
        length = len(content) if length is None else length
        self._ours.sendall(
            _HEADER.pack(_RET_SUBMIT, number, 0, 0, 0)
            + _RETURN.pack(status, length, 0, 0, 0)
            + content
        )
