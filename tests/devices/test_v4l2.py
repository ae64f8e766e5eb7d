"""A V4L2 driver captures into negotiated buffers with the negotiated format. The example's modules do the work."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import sysmem
from sysmem import PixelFormat, blocking
from sysmem.blocking.frames import FrameReceiver, FrameSender, pair

from ..examples.v4l2_camera import DIRECTORY
from ..examples.v4l2_camera import modules as modules
from . import usb_camera
from .conftest import WAIT, needs_udmabuf, negotiated
from .usb_camera import HUB

pytestmark = [needs_udmabuf, pytest.mark.timeout(600)]
FRAMES = 4
RED, GREEN = (200, 30, 30), (30, 200, 30)


def cameras(modules: dict[str, ModuleType]) -> Iterator[tuple[str, Any]]:
    """Yield the path of each camera and the camera, which stays open until the next iteration."""
    for path in sorted(map(str, Path("/dev").glob("video*"))):
        # A USB camera has a second device, for metadata of frames.
        with suppress(modules["v4l2"].CameraError), closing(modules["v4l2"].Camera(path)) as opened:
            yield path, opened


@pytest.fixture(params=["single-planar", "multi-planar"])
def device(modules: dict[str, ModuleType], request: pytest.FixtureRequest) -> str:
    """The first camera with this interface."""
    for path, opened in cameras(modules):
        if opened.multi_planar == (request.param == "multi-planar"):
            return path
    pytest.skip(f"no {request.param} camera: run `make devices`")


@pytest.fixture
def camera(modules: dict[str, ModuleType], device: str) -> Iterator[Any]:
    """The camera, open."""
    with closing(modules["v4l2"].Camera(device)) as opened:
        yield opened


@pytest.fixture
def usb_device(modules: dict[str, ModuleType]) -> Iterator[str]:
    """A USB camera that supports only MJPEG, and shows a red and a green picture."""
    if not HUB.exists():
        pytest.skip("no module vhci_hcd: run `make devices`")
    image = pytest.importorskip("PIL.Image")
    pictures = []
    for color in (RED, GREEN):
        image.new("RGB", (usb_camera.WIDTH, usb_camera.HEIGHT), color).save(
            file := BytesIO(), "JPEG"
        )
        pictures.append(file.getvalue())
    before = {path for path, _ in cameras(modules)}
    with usb_camera.UsbCamera(pictures):
        deadline = time.monotonic() + WAIT
        while time.monotonic() < deadline:  # the kernel makes the device after it is plugged in
            for path, _ in cameras(modules):
                if path not in before:
                    yield path
                    return
            time.sleep(0.05)
        pytest.fail("the driver made no device of the USB camera")


def test_the_constraints_are_what_the_driver_says(
    camera: Any, modules: dict[str, ModuleType]
) -> None:
    needs = modules["needs"]
    made = needs.constraints(camera, needs.offers(camera, 320, 180))
    entries = {entry.pixel_format: entry for entry in made.image_format_constraints}
    assert {PixelFormat.NV12, PixelFormat.B8G8R8X8, PixelFormat.YUY2} <= entries.keys()
    nv12 = entries[PixelFormat.NV12]
    assert nv12.min_size == nv12.max_size == sysmem.SizeU(320, 180)
    assert nv12.min_bytes_per_row == 320
    assert nv12.max_bytes_per_row is None  # vivid writes rows of any length
    assert made.buffer_memory_constraints.min_size_bytes >= 320 * 180 * 4


@pytest.mark.parametrize(
    ("device", "fourcc", "memory"),
    [
        *(
            (device, fourcc, memory)
            for device in ("single-planar", "multi-planar")
            for fourcc in ("NV12", "XR24")
            for memory in ("dma-buf", "copy")
        ),
        *(("multi-planar", fourcc, "dma-buf") for fourcc in ("NM12", "YM12", "YM21")),
        ("multi-planar", "NM12", "copy"),
        *(("single-planar", fourcc, "copy") for fourcc in ("UYVY", "NV21", "NV16")),
    ],
    indirect=["device"],
)
def test_the_driver_fills_negotiated_buffers(
    allocator: blocking.Allocator,
    camera: Any,
    modules: dict[str, ModuleType],
    fourcc: str,
    memory: str,
) -> None:
    seen = captured(allocator, camera, modules, fourcc, memory)
    # Each plane has several values, and the frames differ, because vivid draws a counter into the picture.
    assert all(values > 1 for _, values, _ in seen), seen
    assert len({digest for digest, _, _ in seen}) > 1
    # The first colour bar is white.
    assert all(min(corner) > 150 for _, _, corner in seen), seen


def test_frames_of_mjpeg_are_decoded_into_negotiated_buffers(
    allocator: blocking.Allocator, modules: dict[str, ModuleType], usb_device: str
) -> None:
    with closing(modules["v4l2"].Camera(usb_device)) as camera:
        with pytest.raises(modules["v4l2"].CameraError, match="offers MJPG; NV12 can't be used"):
            modules["needs"].offers(camera, 320, 180, "NV12")
        corners = [corner for _, _, corner in captured(allocator, camera, modules, "MJPG", "copy")]
    near = [
        [np.abs(np.subtract(each, color)).max() < 12 for color in (RED, GREEN)] for each in corners
    ]
    assert all(map(any, near)), corners
    assert near[0] != near[1], corners


def captured(
    allocator: blocking.Allocator,
    camera: Any,
    modules: dict[str, ModuleType],
    fourcc: str,
    memory: str,
) -> list[tuple[int, int, tuple[int, ...]]]:
    """Negotiate with a viewer, capture some frames, and return what the viewer saw of each frame."""
    needs, capture = modules["needs"], modules["capture"]
    offers = needs.offers(camera, 320, 180, fourcc)
    # The other participant requires longer rows than the driver's default.
    viewer = sysmem.constraints(
        ", ".join(sorted(each.name for each in offers)),
        color=["SRGB", "REC601_NTSC"],
        cpu="read often",
        hold=1,
        align=256,
    )
    with ExitStack() as stack:
        places, infos = negotiated(allocator, needs.constraints(camera, offers), viewer)
        for each in (*places, *infos):
            stack.enter_context(each)
        image = infos[0].image
        assert image.bytes_per_row % 256 == 0
        taken = needs.configure(camera, offers, image)
        assert taken.format.name == fourcc
        assert taken.decoder or taken.format.rows[0] == image.bytes_per_row

        ours, theirs = pair()
        sender = stack.enter_context(FrameSender(infos[0], ours))
        seen: list[tuple[int, int, tuple[int, ...]]] = []
        viewing = threading.Thread(target=view, args=(theirs, infos[1], seen))
        viewing.start()
        stack.callback(viewing.join)
        stack.callback(sender.close)
        by = capture.by_dma_buf if memory == "dma-buf" else capture.by_copying
        with closing(by(camera, infos[0], sender, taken)) as frames:
            for _ in range(FRAMES):
                next(frames)
        sender.close()
        viewing.join()
    assert len(seen) >= FRAMES
    return seen


def view(
    end: Any, info: sysmem.BufferCollectionInfo, seen: list[tuple[int, int, tuple[int, ...]]]
) -> None:
    """Look at frames in the driver's buffers: a digest, the number of values of a plane, and a colour near a corner."""
    with FrameReceiver(end, info) as receiver:
        for frame in receiver:
            with frame:
                planes = frame.buffer.planes()
                digest = hash(b"".join(plane.tobytes() for plane in planes))
                values = min(len(np.unique(plane)) for plane in planes)
                corner = frame.buffer.video_frame().to_ndarray(format="rgb24")[20, 10]
                seen.append((digest, values, tuple(corner.tolist())))


@pytest.mark.parametrize("device", ["multi-planar"], indirect=True)  # an emulated processor is slow
def test_the_example_leaves_a_video_of_what_the_camera_saw(device: str, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV isn't installed: pip install av")
    video = tmp_path / "camera.mp4"
    options = ["--device", device, "--size", "320x180", "--frames", "4", "--out", str(video)]
    run = subprocess.run(
        [sys.executable, str(DIRECTORY), *options], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "capturing  by dma-buf, into the buffers themselves" in run.stdout
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 4


def test_one_command_makes_a_video_of_what_a_laptop_s_camera_sees(
    usb_device: str, tmp_path: Path
) -> None:
    av = pytest.importorskip("av", reason="PyAV isn't installed: pip install av")
    run = subprocess.run(
        ["make", "demo", f"CAMERA={usb_device}", f"OUT={tmp_path}", f"VENV={sys.prefix}"],
        cwd=DIRECTORY.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    assert "48 frames" in run.stdout
    assert "found each byte intact" in run.stdout
    with av.open(str(tmp_path / "encoded.mp4")) as container:
        corners = [frame.to_ndarray(format="rgb24")[40, 20] for frame in container.decode(video=0)]
    assert len(corners) == 48
    for color in (RED, GREEN):
        assert any(np.abs(np.subtract(corner, color)).max() < 25 for corner in corners), corners
