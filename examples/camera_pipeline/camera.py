"""The camera: a process that writes the frames of a video into the buffers, and sends them to the others.

Run by the initiator (`__main__.py`), not by hand.
"""

from __future__ import annotations

import hashlib
import itertools
import time
from contextlib import ExitStack
from pathlib import Path

import clip
import report
import sysmem
from sysmem import blocking
from sysmem.blocking.frames import FrameSender
from talk import participants_arguments, participate, tell

# What this participant needs of the buffers. It doesn't know the other participants or what they need.
NEEDS = sysmem.BufferCollectionConstraints(
    usage=sysmem.BufferUsage(
        cpu=sysmem.CpuUsage.WRITE_OFTEN,
        video=sysmem.VideoUsage.CAPTURE,
    ),
    # One buffer is being filled, and one must be at hand when the next frame comes.
    min_buffer_count_for_camping=2,
    image_format_constraints=[
        sysmem.ImageFormatConstraints(
            pixel_format=sysmem.PixelFormat.NV12,
            color_spaces=[sysmem.ColorSpace.REC709],
            # The sensor has this one mode.
            min_size=sysmem.SizeU(clip.WIDTH, clip.HEIGHT),
            max_size=sysmem.SizeU(clip.WIDTH, clip.HEIGHT),
            # It writes bursts of 96 bytes, so each row has to begin at a multiple of that.
            bytes_per_row_divisor=96,
        ),
        sysmem.ImageFormatConstraints(
            pixel_format=sysmem.PixelFormat.B8G8R8A8,
            color_spaces=[sysmem.ColorSpace.SRGB],
            min_size=sysmem.SizeU(clip.WIDTH, clip.HEIGHT),
            max_size=sysmem.SizeU(clip.WIDTH, clip.HEIGHT),
            bytes_per_row_divisor=96,
        ),
    ],
)


def main() -> None:
    parser = participants_arguments()
    parser.add_argument("--video", type=Path, required=True)
    parser.add_argument("--written", type=Path, required=True, help="file for a copy of all frames")
    arguments = parser.parse_args()

    with ExitStack() as stack:
        # Turn in the token that the initiator made for us. The collection stays when the allocator is closed.
        with blocking.connect(name="camera") as allocator:
            token = blocking.BufferCollectionToken.from_fd(arguments.token)
            collection = stack.enter_context(allocator.bind_shared_collection(token))

        collection.set_constraints(NEEDS)
        tell("asked", column=report.asked(NEEDS))
        info = stack.enter_context(collection.wait_for_all_buffers_allocated())
        tell("got", **report.got(info))
        image_bytes = info.image.byte_size()
        written = stack.enter_context(arguments.written.open("wb"))

        with FrameSender(info, *arguments.frames) as sender:
            next_frame = time.monotonic()
            for picture in itertools.islice(clip.frames(arguments.video), clip.FRAMES):
                buffer = info.buffers[index := sender.acquire()]
                buffer.fill_from(picture)
                written.write(buffer.video_frame().to_ndarray().data)
                digest = hashlib.sha256(buffer.mapping()[:image_bytes]).hexdigest()
                time.sleep(max(0.0, next_frame - time.monotonic()))
                next_frame = max(next_frame, time.monotonic()) + 1 / clip.FRAMES_PER_SECOND
                sender.send(index, size=image_bytes, metadata={"sha256": digest})
            written.flush()
            sender.close("the clip is over")

        collection.wait_closed()
        tell("noticed", at=time.monotonic_ns())


if __name__ == "__main__":
    participate(main)
