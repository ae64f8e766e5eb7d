"""A V4L2 driver captures into negotiated buffers, set to what was negotiated; with the modules of the example."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

import sysmem
from sysmem import PixelFormat, blocking
from sysmem.blocking.frames import FrameReceiver, FrameSender, pair

from .conftest import needs_udmabuf, negotiated

pytestmark = [needs_udmabuf, pytest.mark.timeout(600)]
EXAMPLE = Path(__file__).parents[2] / "examples" / "v4l2_camera"
FRAMES = 4


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The example's modules."""
    names = ["v4l2", "needs", "capture"]
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in names:
            del sys.modules[name]


@pytest.fixture(params=["single-planar", "multi-planar"])
def device(modules: dict[str, ModuleType], request: pytest.FixtureRequest) -> str:
    """The first camera with this API."""
    for path in sorted(Path("/dev").glob("video*")):
        with closing(modules["v4l2"].Camera(str(path))) as opened:
            if opened.multi_planar == (request.param == "multi-planar"):
                return str(path)
    pytest.skip(f"no {request.param} camera: run `make devices`")


@pytest.fixture
def camera(modules: dict[str, ModuleType], device: str) -> Iterator[Any]:
    """The camera, open."""
    with closing(modules["v4l2"].Camera(device)) as opened:
        yield opened


def test_the_constraints_are_what_the_driver_says(
    camera: Any, modules: dict[str, ModuleType]
) -> None:
    made = modules["needs"].constraints(camera, 320, 180)
    entries = {entry.pixel_format: entry for entry in made.image_format_constraints}
    assert {PixelFormat.NV12, PixelFormat.B8G8R8X8, PixelFormat.YUY2} <= entries.keys()
    nv12 = entries[PixelFormat.NV12]
    assert nv12.min_size == nv12.max_size == sysmem.SizeU(320, 180)
    assert nv12.min_bytes_per_row == 320
    assert made.buffer_memory_constraints.min_size_bytes >= 320 * 180 * 4


@pytest.mark.parametrize("pixel_format", ["NV12", "B8G8R8X8"])
@pytest.mark.parametrize("memory", ["dma-buf", "copy"])
def test_the_driver_fills_negotiated_buffers(
    allocator: blocking.Allocator,
    camera: Any,
    modules: dict[str, ModuleType],
    pixel_format: str,
    memory: str,
) -> None:
    asked = modules["needs"].constraints(camera, 320, 180)
    # The other participant wants longer rows than the driver would have by itself.
    viewer = sysmem.constraints(
        pixel_format, color=["SRGB", "REC601_NTSC"], cpu="read often", hold=1, align=256
    )
    with ExitStack() as stack:
        places, infos = negotiated(allocator, asked, viewer)
        for each in (*places, *infos):
            stack.enter_context(each)
        image = infos[0].image
        assert image.pixel_format is PixelFormat[pixel_format]
        assert image.bytes_per_row % 256 == 0
        taken = modules["needs"].configure(camera, image)
        assert taken.bytes_per_row == image.bytes_per_row

        ours, theirs = pair()
        sender = stack.enter_context(FrameSender(infos[0], ours))
        seen: list[tuple[int, int]] = []
        encoded: list[bytes] = []
        viewing = threading.Thread(target=view, args=(theirs, infos[1], seen, encoded))
        viewing.start()
        stack.callback(viewing.join)
        stack.callback(sender.close)
        capture, size = modules["capture"], image.byte_size()
        frames = (
            capture.by_dma_buf(camera, infos[0], sender, size)
            if memory == "dma-buf"
            else capture.by_copying(camera, infos[0], sender, size, taken)
        )
        with closing(frames):
            for _ in range(FRAMES):
                next(frames)
        sender.close()
        viewing.join()
        assert len(seen) >= FRAMES
        # Each frame has several colours, and they differ: vivid counts on the picture.
        assert all(values > 1 for _, values in seen), seen
        assert len({digest for digest, _ in seen}) > 1
        if encoded:
            assert sum(map(len, encoded)) > 1000


def view(
    end: Any, info: sysmem.BufferCollectionInfo, seen: list[tuple[int, int]], encoded: list[bytes]
) -> None:
    """Look at frames where the driver wrote them, and compress them if PyAV is there."""
    try:
        import av
    except ImportError:
        context = None
    else:
        context = av.CodecContext.create("mpeg4", "w")
        context.width, context.height = info.image.size.width, info.image.size.height
        context.pix_fmt, context.time_base = "yuv420p", Fraction(1, 30)
    with FrameReceiver(end, info) as receiver:
        for frame in receiver:
            with frame:
                plane = frame.buffer.planes()[0]
                seen.append((hash(plane.tobytes()), len(np.unique(plane))))
                if context is not None:
                    picture = frame.buffer.video_frame(pts=frame.sequence)
                    packets = context.encode(picture.reformat(format="yuv420p"))
                    encoded.extend(bytes(packet) for packet in packets)


@pytest.mark.parametrize("device", ["multi-planar"], indirect=True)  # an emulated one is slow
def test_the_example_leaves_a_video_of_what_the_camera_saw(device: str, tmp_path: Path) -> None:
    av = pytest.importorskip("av", reason="PyAV isn't installed: pip install av")
    video = tmp_path / "camera.mp4"
    options = ["--device", device, "--size", "320x180", "--frames", "4", "--out", str(video)]
    run = subprocess.run(
        [sys.executable, str(EXAMPLE), *options], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "capturing  by dma-buf, into the buffers themselves" in run.stdout
    with av.open(str(video)) as container:
        assert sum(1 for _ in container.decode(video=0)) >= 4
