"""A GStreamer pipeline between two collections: NV12 in, B8G8R8A8 out.

    python3 examples/gstreamer [--out FILE.png] [--runtime-dir DIR]

This process writes frames into the buffers of one collection, and looks at those of another. The pipeline is in a
process of its own, converter.py, which needs the system's Python: on Debian, `apt-get install python3-gst-1.0
gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base`, and run this in a virtual environment that was made with
`/usr/bin/python3 -m venv --system-site-packages`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np

import sysmem
from sysmem import blocking
from sysmem.blocking.frames import FrameReceiver, FrameSender, pair

WIDTH, HEIGHT = 320, 180
FRAMES = 24
WAIT = 30.0


def main() -> int:
    parser = argparse.ArgumentParser(prog="gstreamer", description=str(__doc__).splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("gstreamer.png"), help="the last frame")
    parser.add_argument("--runtime-dir", help="of a running daemon; by default one of its own")
    arguments = parser.parse_args()
    try:
        import sysmem.gst  # noqa: F401  # here, so that the error says what is missing
    except ImportError as error:
        print(f"skipped: {error}")
        return 0
    with contextlib.ExitStack() as stack:
        directory = arguments.runtime_dir
        if directory is None:
            from sysmem.testing import sysmemd

            directory = str(stack.enter_context(sysmemd()).runtime_dir)
        run(directory, arguments.out)
    return 0


def run(directory: str, out: Path) -> None:
    with contextlib.ExitStack() as stack:
        allocator = stack.enter_context(blocking.connect(directory, name="camera and screen"))
        camera, for_source = shared(allocator, stack)
        screen, for_sink = shared(allocator, stack)
        to_converter, converters_source = pair()
        from_converter, converters_sink = pair()
        inherited: list[blocking.BufferCollectionToken | socket.socket] = [
            *(for_source, for_sink),
            *(converters_source, converters_sink),
        ]
        converter = stack.enter_context(
            subprocess.Popen(
                [
                    sys.executable,
                    str(Path(__file__).with_name("converter.py")),
                    *(str(each.fileno()) for each in inherited),
                ],
                pass_fds=[each.fileno() for each in inherited],
                env={**os.environ, "SYSMEM_RUNTIME_DIR": directory},
            )
        )
        stack.callback(converter.kill)
        for each in inherited:
            each.close()

        camera.set_constraints(
            sysmem.constraints(
                f"NV12 {WIDTH}x{HEIGHT}", cpu="read often, write often", hold=2, align=64
            )
        )
        screen.set_constraints(
            sysmem.constraints(f"B8G8R8A8 {WIDTH}x{HEIGHT}", cpu="read often", hold=2)
        )
        source = stack.enter_context(camera.wait_for_all_buffers_allocated(timeout=WAIT))
        sink = stack.enter_context(screen.wait_for_all_buffers_allocated(timeout=WAIT))
        print("camera:", source.image)
        print("screen:", sink.image)

        sender = stack.enter_context(FrameSender(source, to_converter))
        receiver = stack.enter_context(FrameReceiver(from_converter, sink))
        for number in range(FRAMES):
            index = sender.acquire(timeout=WAIT)
            draw(source.buffers[index], number)
            sender.send(index)
            with receiver.receive(timeout=WAIT) as frame:
                check(frame.buffer, number)
                picture = frame.buffer.image()
        picture.save(out)
        sender.close()
        if converter.wait(WAIT) != 0:
            raise SystemExit("the converter failed")
        for collection in (camera, screen):
            collection.release()
    print(f"{FRAMES} frames through the pipeline; the last one is {out}")


def shared(
    allocator: blocking.Allocator, stack: contextlib.ExitStack
) -> tuple[blocking.BufferCollection, blocking.BufferCollectionToken]:
    """Return this process's place in a new collection, and a token for the converter."""
    token = allocator.allocate_shared_collection()
    [other] = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
    return stack.enter_context(allocator.bind_shared_collection(token)), other


def draw(buffer: sysmem.VmoBuffer, number: int) -> None:
    """Draw a moving white bar on black."""
    luma, chroma = buffer.planes()
    luma[:], chroma[:] = 16, 128
    luma[:, bar(number)] = 235


def check(buffer: sysmem.VmoBuffer, number: int) -> None:
    """Raise `SystemExit` unless the bar is where it was drawn."""
    [pixels] = buffer.planes()
    white = np.zeros(WIDTH, bool)
    white[bar(number)] = True
    if not ((pixels[HEIGHT // 2, :, 1] > 128) == white).all():
        raise SystemExit(f"frame {number} isn't what was drawn")


def bar(number: int) -> slice:
    """Return the columns of the bar."""
    left = number * (WIDTH - 32) // (FRAMES - 1) // 2 * 2
    return slice(left, left + 32)


if __name__ == "__main__":
    sys.exit(main())
