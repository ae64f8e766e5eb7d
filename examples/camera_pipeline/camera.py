"""The camera: a process that writes frames into the buffers, and tells which buffer holds a new one.

Its sensor sees a photograph, over which it pans and zooms. Run by the initiator (`__main__.py`), not by hand.
"""

from __future__ import annotations

import argparse
import hashlib
import math
import socket
import time
from collections import Counter, deque
from contextlib import ExitStack, closing

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

import pixels
import report
import sysmem
from link import Link
from sysmem import blocking

WIDTH, HEIGHT = 640, 480
SECONDS_PER_FRAME = 1 / 24

# What this participant needs of the buffers. It has never heard of the other ones and of what they need.
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
            min_size=sysmem.SizeU(WIDTH, HEIGHT),
            max_size=sysmem.SizeU(WIDTH, HEIGHT),
            # It writes bursts of 96 bytes, so each row has to begin at a multiple of that.
            bytes_per_row_divisor=96,
        ),
        sysmem.ImageFormatConstraints(
            pixel_format=sysmem.PixelFormat.B8G8R8A8,
            color_spaces=[sysmem.ColorSpace.SRGB],
            min_size=sysmem.SizeU(WIDTH, HEIGHT),
            max_size=sysmem.SizeU(WIDTH, HEIGHT),
            bytes_per_row_divisor=96,
        ),
    ],
)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--link", type=int, required=True, help="descriptor of the initiator's socket"
    )
    parser.add_argument("--image", required=True)
    parser.add_argument("--readers", type=int, required=True, help="who must return a buffer")
    arguments = parser.parse_args()

    with ExitStack() as stack:
        link = stack.enter_context(closing(Link(socket.socket(fileno=arguments.link))))
        # Turn in the token that the initiator made for us. What came of it stays when the allocator is closed.
        with blocking.connect(name="camera") as allocator:
            token = blocking.BufferCollectionToken.from_fd(link.receive()["fd"])
            collection = stack.enter_context(allocator.bind_shared_collection(token))

        collection.set_constraints(NEEDS)
        link.send("asked", column=report.asked(NEEDS))
        info = stack.enter_context(collection.wait_for_all_buffers_allocated())
        link.send("got", **report.got(info))

        # Each buffer is mapped once, for the whole time.
        views = [stack.enter_context(buffer.map()) for buffer in info.buffers]
        layout = pixels.Layout.negotiated(info.settings)
        photograph = open_photograph(arguments.image)

        number = 0
        free = deque(range(len(views)))
        lent: Counter[int] = Counter()
        next_frame = time.monotonic()
        while True:
            # With no buffer free there is nothing to do before a reader returns one.
            timeout = max(0.0, next_frame - time.monotonic()) if free else None
            message = link.receive_unless_closed(collection, timeout)
            if message is not None:
                index = message["buffer"]
                lent[index] -= 1
                if not lent[index]:
                    free.append(index)
            elif collection.wait_closed(timeout=0):
                break
            elif free:
                index = free.popleft()
                image = pixels.from_rgb(take_frame(photograph, number), layout)
                views[index][: layout.size] = image.data.cast("B")
                # Hashed where it came from, not where it went to: the readers check what arrived.
                digest = hashlib.sha256(image.data).hexdigest()
                link.send("frame", number=number, buffer=index, sha256=digest)
                lent[index] = arguments.readers
                number += 1
                next_frame += SECONDS_PER_FRAME

        link.send("noticed", at=time.monotonic_ns())


def open_photograph(file: str) -> Image.Image:
    """A photograph as it is meant to be looked at."""
    with Image.open(file) as opened:
        return ImageOps.exif_transpose(opened).convert("RGB")


def in_view(photograph: Image.Image, number: int) -> tuple[float, float, float, float]:
    """Which part of the photograph the sensor sees in a frame: left, upper, right, lower."""
    swing = (1 - math.cos(number * math.pi / 24)) / 2  # 0 to 1 and back in 48 frames
    zoom = 1 - 0.5 * swing
    width = min(photograph.width, photograph.height * WIDTH / HEIGHT) * zoom
    height = width * HEIGHT / WIDTH
    left = (photograph.width - width) * (0.5 - 0.1 * swing)
    upper = (photograph.height - height) * (0.5 - 0.25 * swing)
    return left, upper, left + width, upper + height


def take_frame(photograph: Image.Image, number: int) -> pixels.Bytes:
    """What the sensor sees, with the frame's number on it, so that no two frames are the same."""
    size = (WIDTH, HEIGHT)
    frame = photograph.resize(size, Image.Resampling.BILINEAR, box=in_view(photograph, number))
    draw = ImageDraw.Draw(frame)
    draw.rounded_rectangle((16, 16, 120, 62), 8, fill="black")
    draw.ellipse((28, 32, 42, 46), fill="red")
    draw.text((54, 39), f"{number:03}", "white", ImageFont.load_default(30), anchor="lm")
    return np.asarray(frame, np.uint8)


if __name__ == "__main__":
    main()
