"""The display: a process that reads frames where the camera wrote them, and shows them in RGB.

The initiator (`__main__.py`) runs it. It leaves pictures of what it showed for the contact sheet.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from PIL import Image

import report
import sysmem
from sysmem import blocking
from sysmem.blocking.frames import Frame, FrameReceiver
from talk import participants_arguments, participate, tell

NEEDS = sysmem.BufferCollectionConstraints(
    usage=sysmem.BufferUsage(
        cpu=sysmem.CpuUsage.READ_OFTEN,
        display=sysmem.DisplayUsage.LAYER,
    ),
    # The frame on the screen, and the next one.
    min_buffer_count_for_camping=2,
    min_buffer_count_for_shared_slack=1,
    image_format_constraints=[
        sysmem.ImageFormatConstraints(
            pixel_format=sysmem.PixelFormat.B8G8R8A8,
            color_spaces=[sysmem.ColorSpace.SRGB],
            max_size=sysmem.SizeU(1920, 1080),
            bytes_per_row_divisor=32,
        ),
        sysmem.ImageFormatConstraints(
            pixel_format=sysmem.PixelFormat.NV12,
            color_spaces=[sysmem.ColorSpace.REC601_NTSC, sysmem.ColorSpace.REC709],
            max_size=sysmem.SizeU(1920, 1080),
            bytes_per_row_divisor=32,
        ),
    ],
)


def main() -> None:
    parser = participants_arguments()
    parser.add_argument("--pictures", type=Path, required=True, help="where to leave some")
    parser.add_argument("--keep", type=int, nargs="*", default=[], help="of which frames")
    arguments = parser.parse_args()

    with ExitStack() as stack:
        with blocking.connect(name="display") as allocator:
            token = blocking.BufferCollectionToken.from_fd(arguments.token)
            collection = stack.enter_context(allocator.bind_shared_collection(token))

        collection.set_constraints(NEEDS)
        tell("asked", column=report.asked(NEEDS))
        info = stack.enter_context(collection.wait_for_all_buffers_allocated())
        tell("got", **report.got(info))

        shown: Frame | None = None
        receiver = stack.enter_context(FrameReceiver(arguments.frames[0], info))
        for frame in receiver:
            digest = digest_of(frame)
            if frame.sequence in arguments.keep:
                picture = frame.buffer.image()
                picture.save(arguments.pictures / f"{frame.sequence}.png", compress_level=1)
            intact = digest == frame.metadata["sha256"]
            tell("seen", number=frame.sequence, buffer=frame.index, sha256=digest, intact=intact)
            if shown is not None:
                shown.release()
            shown = frame

        collection.wait_closed()
        noticed = time.monotonic_ns()
        # The collection is gone, but memory lives as long as somebody has it open or mapped. The camera never got the
        # buffer on our screen back, so its picture must be the same.
        intact = False
        if shown is not None:
            intact = digest_of(shown) == shown.metadata["sha256"]
            rows = shown.size // info.image.bytes_per_row
            memory = shown.buffer.array(np.uint8, (rows, info.image.bytes_per_row))
            Image.fromarray(memory).save(arguments.pictures / "memory.png")
            shown.release()
        tell("noticed", at=noticed, screen_intact=intact)


def digest_of(frame: Frame) -> str:
    """Return the SHA-256 of what is in a frame's buffer now."""
    return hashlib.sha256(frame.buffer.mapping()[: frame.size]).hexdigest()


if __name__ == "__main__":
    participate(main)
