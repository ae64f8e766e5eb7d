"""The example `v4l2_camera`: its errors, and its decoding of frames from a fake driver that answers the system calls.

tests/devices tests it with real drivers.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
from contextlib import ExitStack, closing
from io import BytesIO
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from sysmem.blocking.frames import FrameReceiver, FrameSender, pair
from sysmem.testing.blocking import daemon

from .v4l2_camera import modules as modules

if TYPE_CHECKING:
    from .conftest import Runner

RED, GREEN = (200, 30, 30), (30, 200, 30)
WIDTH, HEIGHT = 64, 48
SLOT = 1 << 16  # the size of each of the driver's buffers, in bytes


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("/dev/no-such-camera", "/dev/no-such-camera: there is no such camera"),
        ("/dev/null", "/dev/null is no V4L2 device: Inappropriate ioctl for device"),
    ],
)
def test_without_a_camera_it_says_so(example: Runner, device: str, told: str) -> None:
    run = example.run("v4l2_camera", "--device", device)
    assert run.returncode == 1
    assert told in run.stderr
    assert "Traceback" not in run.stderr


def test_a_size_that_is_none_is_refused(example: Runner) -> None:
    run = example.run("v4l2_camera", "--size", "large")
    assert run.returncode == 2
    assert run.stderr.endswith("argument --size: invalid size value: 'large'\n")


class Driver:
    """The driver of a camera with one format and these frames. A memfd stands for its memory."""

    def __init__(self, modules: dict[str, ModuleType], fourcc: bytes, frames: list[bytes]) -> None:
        self.v4l2 = modules["v4l2"]
        self._ioctl = self.v4l2.fcntl.ioctl
        self.capabilities = 0x0400_0001  # the driver streams captured frames
        self._fourcc = int.from_bytes(fourcc, "little")
        self._row = 0 if fourcc == b"MJPG" else WIDTH * 2 + 32
        self._frames = iter(frames)
        self.damaged: set[int] = set()  # numbers of frames
        self.errors: dict[int, int] = {}  # of which calls
        self._number = itertools.count()
        self._queued: list[int] = []

    def open(self, path: str, flags: int) -> int:
        self.fd = os.memfd_create("camera")
        os.ftruncate(self.fd, 4 * SLOT)
        return self.fd

    def ioctl(self, fd: int, number: int, request: Any) -> Any:
        v4l2 = self.v4l2
        if fd != self.fd:
            return self._ioctl(fd, number, request)
        if number in self.errors:
            raise OSError(self.errors[number], os.strerror(self.errors[number]))
        if number == v4l2._QUERYCAP:
            return v4l2._CAPABILITY.pack(b"fake", b"Fake", b"", 0, self.capabilities, 0)
        if number == v4l2._ENUM_FMT:
            if request[0]:  # the index
                raise OSError(errno.EINVAL, "no more formats")
            v4l2._FMTDESC.pack_into(request, 0, 0, 1, 0, b"", self._fourcc)
        elif number in (v4l2._TRY_FMT, v4l2._S_FMT):
            image = (1, WIDTH, HEIGHT, self._fourcc, 1, self._row, SLOT, 8, 0, 0, 0, 0, 0)
            v4l2._FORMAT.pack_into(request, 0, *image)
        elif number == v4l2._QUERYBUF:
            [index] = struct.unpack_from("=I", request)
            v4l2._BUFFER.pack_into(request, 0, index, 1, 0, 0, 0, 1, index * SLOT, SLOT)
        elif number == v4l2._QBUF:
            self._queued.append(v4l2._BUFFER.unpack(request)[0])
        elif number == v4l2._DQBUF:
            index, frame, flags = self._queued.pop(0), next(self._frames), 0
            if next(self._number) in self.damaged:
                flags = v4l2._FLAG_ERROR
            os.pwrite(fd, frame, index * SLOT)
            v4l2._BUFFER.pack_into(request, 0, index, 1, len(frame), flags, 0, 1, 0, SLOT)
        return 0


def plug_in(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make a fake driver answer the system calls about cameras, and return the camera."""
    with monkeypatch.context() as patched:
        patched.setattr(driver.v4l2.os, "open", driver.open)
        patched.setattr(driver.v4l2.fcntl, "ioctl", driver.ioctl)
        camera = driver.v4l2.Camera("/dev/video0")
    monkeypatch.setattr(driver.v4l2.fcntl, "ioctl", driver.ioctl)
    return camera


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOENT, "there is no such camera"),
        (errno.EACCES, f"user {os.geteuid()} may not open it .is the user in the group video"),
        (errno.EBUSY, "another program has it"),
        (errno.EIO, "Input/output error"),
    ],
)
def test_a_camera_that_can_not_be_opened_is_named_with_the_reason(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, number: int, told: str
) -> None:
    def refuse(path: str, flags: int) -> int:
        raise OSError(number, os.strerror(number), path)

    with monkeypatch.context() as patched:
        patched.setattr(modules["v4l2"].os, "open", refuse)
        with pytest.raises(modules["v4l2"].CameraError, match=f"/dev/video7: {told}"):
            modules["v4l2"].Camera("/dev/video7")


def test_a_device_that_captures_nothing_is_refused(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver = Driver(modules, b"MJPG", [])
    driver.capabilities = 0x0400_0002  # an output
    with pytest.raises(modules["v4l2"].CameraError, match=r"Fake \(fake\), doesn't stream video"):
        plug_in(driver, monkeypatch)


def test_a_camera_without_a_format_that_can_be_used_names_its_formats(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(plug_in(Driver(modules, b"BA81", []), monkeypatch)) as camera:
        for only in (None, "NV12"):
            with pytest.raises(modules["v4l2"].CameraError, match=f"BA81; {only or 'none of'}"):
                modules["needs"].offers(camera, WIDTH, HEIGHT, only)


@pytest.mark.parametrize(
    ("number", "call", "method", "told"),
    [
        (errno.EBUSY, "_REQBUFS", "request_buffers", "another program uses it"),
        (errno.ENODEV, "_QBUF", "queue", "it was unplugged"),
    ],
)
def test_a_camera_that_is_in_use_or_gone_is_named_with_the_reason(
    modules: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    call: str,
    method: str,
    told: str,
) -> None:
    v4l2, driver = modules["v4l2"], Driver(modules, b"MJPG", [])
    driver.errors[getattr(v4l2, call)] = number
    with (
        closing(plug_in(driver, monkeypatch)) as camera,
        pytest.raises(v4l2.CameraError, match=rf"Fake \(fake\): {told}"),
    ):
        getattr(camera, method)(0, v4l2.MMAP)


def picture(color: tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (WIDTH, HEIGHT), color)


def jpeg(color: tuple[int, int, int]) -> bytes:
    picture(color).save(file := BytesIO(), "JPEG")
    return file.getvalue()


def uyvy(color: tuple[int, int, int]) -> bytes:
    """Return a picture whose rows are longer than their pixels."""
    y, *chroma = picture(color).convert("YCbCr").tobytes()[:3]
    luma = round(16 + y * 219 / 255)
    blue, red = (round(128 + (each - 128) * 224 / 255) for each in chroma)
    row = bytes([blue, luma, red, luma]) * (WIDTH // 2)
    return (row + bytes(32)) * HEIGHT


@pytest.mark.parametrize(("fourcc", "make"), [(b"MJPG", jpeg), (b"UYVY", uyvy)])
def test_frames_that_sysmem_has_no_format_for_are_decoded_and_damaged_ones_left_out(
    modules: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch, fourcc: bytes, make: Any
) -> None:
    needs, capture = modules["needs"], modules["capture"]
    frames = [b"no picture", make(GREEN), make(RED), make(GREEN)]
    driver = Driver(modules, fourcc, frames)
    driver.damaged = {1}
    with ExitStack() as stack:
        camera = stack.enter_context(closing(plug_in(driver, monkeypatch)))
        offers = needs.offers(camera, 640, 480)
        running = stack.enter_context(daemon())
        allocator = stack.enter_context(running.connect())
        collection = stack.enter_context(allocator.allocate_non_shared_collection())
        collection.set_constraints(needs.constraints(camera, offers))
        info = stack.enter_context(collection.wait_for_all_buffers_allocated())
        taken = needs.configure(camera, offers, info.image)
        ours, theirs = pair()
        sender = stack.enter_context(FrameSender(info, ours))
        receiver = stack.enter_context(FrameReceiver(theirs, info))
        with pytest.raises(modules["v4l2"].CameraError, match="are decoded"):
            next(capture.by_dma_buf(camera, info, sender, taken))
        with closing(capture.by_copying(camera, info, sender, taken)) as captured:
            for color in (RED, GREEN):
                next(captured)
                with receiver.receive(timeout=20) as frame:
                    seen = frame.buffer.video_frame().to_ndarray(format="rgb24")
                assert seen.shape == (HEIGHT, WIDTH, 3)
                assert np.abs(seen.astype(int) - color).max() < 8
