"""The recorder: an ordinary participant that compresses frames where the driver wrote them.

`recorder.py TOKEN SOCKET FILE`, descriptors that `__main__.py` has it inherit.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from fractions import Fraction

import av

import sysmem
from sysmem import blocking
from sysmem.blocking.frames import FrameReceiver

RATE = 30


def main() -> None:
    token_fd, socket_fd, file = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    with ExitStack() as stack:
        with blocking.connect(name="recorder") as allocator:
            token = blocking.BufferCollectionToken.from_fd(token_fd)
            collection = stack.enter_context(allocator.bind_shared_collection(token))
        # Any format that FFmpeg supports, in any colour space: frames are converted for the encoder.
        collection.set_constraints(
            sysmem.constraints(
                "NV12, I420, YV12, P010, YUY2, B8G8R8A8, B8G8R8X8, R8G8B8A8, R8G8B8X8, B8G8R8, R8G8B8, R5G6B5, L8",
                color=["SRGB", "REC709", "REC601_NTSC", "REC601_PAL", "REC601_NTSC_FULL_RANGE"],
                cpu="read often",
                video="hw encoder",
                hold=2,
            )
        )
        info = stack.enter_context(collection.wait_for_all_buffers_allocated())
        image = info.image
        container = stack.enter_context(av.open(file, "w"))
        codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
        stream = container.add_stream(codec, rate=RATE)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = image.size.width, image.size.height, "yuv420p"
        count = 0
        receiver = stack.enter_context(FrameReceiver(socket_fd, info))
        for frame in receiver:
            with frame:
                picture = frame.buffer.video_frame(pts=count, time_base=Fraction(1, RATE))
                container.mux(stream.encode(picture.reformat(format="yuv420p")))
                count += 1
        container.mux(stream.encode(None))
        container.close()
        collection.release()
    print(
        f"{file}: {count} frames of {image.pixel_format.name}, {image.size.width}x{image.size.height}"
    )


if __name__ == "__main__":
    main()
