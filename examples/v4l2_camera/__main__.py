"""A V4L2 camera captures into negotiated buffers, and another process makes a video file of them.

    python examples/v4l2_camera [--device /dev/video0] [--size 640x480] [--frames 60] [--memory auto|dma-buf|copy]
                                [--format NV12] [--out FILE.mp4] [--runtime-dir DIR]

The constraints come from the driver, and what was negotiated is set on it. Where the kernel and the driver allow it,
the driver writes into the buffers themselves (V4L2_MEMORY_DMABUF). Otherwise each frame is copied once from the
driver's memory. If the camera has this size only in a format that sysmem doesn't have, such as MJPEG, each frame is
decoded into a buffer.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import capture
import needs
from v4l2 import Camera, CameraError

import sysmem
from sysmem import blocking
from sysmem.blocking.frames import FrameSender, pair

WAIT = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="v4l2_camera", description=str(__doc__).splitlines()[0])
    parser.add_argument("--device", default="/dev/video0")
    parser.add_argument(
        "--size", type=size, default="640x480", help="the nearest one that the camera has"
    )
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--memory", choices=["auto", "dma-buf", "copy"], default="auto")
    parser.add_argument("--format", help="only this one of the driver's formats, such as MJPG")
    parser.add_argument("--out", type=Path, default=Path("camera.mp4"))
    parser.add_argument("--runtime-dir", help="of a running daemon; by default one of its own")
    arguments = parser.parse_args()
    try:
        with contextlib.ExitStack() as stack:
            camera = stack.enter_context(contextlib.closing(Camera(arguments.device)))
            directory = arguments.runtime_dir
            if directory is None:
                from sysmem.testing import sysmemd

                directory = str(stack.enter_context(sysmemd()).runtime_dir)
            run(arguments, camera, directory)
    except (
        OSError,
        CameraError,
        sysmem.DaemonUnavailableError,
        sysmem.PeerClosedError,
        sysmem.SysmemError,
    ) as error:
        print(f"v4l2_camera: {error}", file=sys.stderr)
        return 1
    return 0


def size(text: str) -> tuple[int, int]:
    """Read a width and a height, such as 640x480."""
    width, height = map(int, text.split("x"))
    return width, height


def run(arguments: argparse.Namespace, camera: Camera, directory: str) -> None:
    width, height = arguments.size
    offered = needs.offers(camera, width, height, arguments.format)
    used = ", ".join(dict.fromkeys(offer.format.name for offer in offered.values()))
    print(f"camera     {camera.name}, offers {used}")
    with contextlib.ExitStack() as stack:
        allocator = stack.enter_context(blocking.connect(directory, name="camera"))
        root = allocator.allocate_shared_collection()
        [token] = root.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        ours, theirs = pair()
        with token, theirs:
            recorder = stack.enter_context(
                subprocess.Popen(
                    [
                        *(sys.executable, str(Path(__file__).with_name("recorder.py"))),
                        *(str(token.fileno()), str(theirs.fileno()), str(arguments.out)),
                    ],
                    pass_fds=[token.fileno(), theirs.fileno()],
                    env={**os.environ, "SYSMEM_RUNTIME_DIR": directory},
                )
            )
        stack.callback(recorder.kill)
        collection = stack.enter_context(allocator.bind_shared_collection(root))
        collection.set_constraints(needs.constraints(camera, offered))
        info = stack.enter_context(collection.wait_for_all_buffers_allocated(timeout=WAIT))
        image = info.image
        taken = needs.configure(camera, offered, image)
        print(
            f"negotiated {image.pixel_format.name} {image.size.width}x{image.size.height},"
            f" {image.bytes_per_row} bytes a row, {image.color_space.name}, {len(info.buffers)} buffers"
        )
        sender = stack.enter_context(FrameSender(info, ours))
        frames = captured(arguments.memory, camera, info, sender, taken)
        with contextlib.closing(frames):
            for _ in itertools.islice(frames, arguments.frames):
                pass
        sender.close("enough frames")
        if recorder.wait(WAIT) != 0:
            raise CameraError("the recorder failed")
        collection.release()


def captured(
    memory: str,
    camera: Camera,
    info: sysmem.BufferCollectionInfo,
    sender: FrameSender,
    taken: needs.Offer,
) -> Generator[None, None, None]:
    """Capture by dma-buf if that is possible and wanted, otherwise by copying or decoding. Prints which."""
    if memory != "copy":
        frames = capture.by_dma_buf(camera, info, sender, taken)
        try:
            next(frames)
        except (OSError, ValueError, CameraError) as error:
            if memory == "dma-buf":
                raise CameraError(str(error)) from error
            print(f"copying    {error}")
        else:
            print("capturing  by dma-buf, into the buffers themselves")
            yield
            yield from frames
            return
    yield from capture.by_copying(camera, info, sender, taken)


if __name__ == "__main__":
    sys.exit(main())
