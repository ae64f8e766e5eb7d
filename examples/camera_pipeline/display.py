"""The display: a process that reads frames where the camera wrote them, and shows them in RGB.

Run by the initiator (`__main__.py`), not by hand. What it showed is left as pictures for the contact sheet.
"""

from __future__ import annotations

import argparse
import hashlib
import socket
import time
from contextlib import ExitStack, closing
from pathlib import Path

from PIL import Image

import pixels
import report
import sysmem
from link import Link, Message
from sysmem import blocking

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
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--link", type=int, required=True, help="descriptor of the initiator's socket"
    )
    parser.add_argument("--pictures", type=Path, required=True, help="where to leave some")
    parser.add_argument("--keep", type=int, nargs="*", default=[], help="of which frames")
    arguments = parser.parse_args()

    with ExitStack() as stack:
        link = stack.enter_context(closing(Link(socket.socket(fileno=arguments.link))))
        with blocking.connect(name="display") as allocator:
            token = blocking.BufferCollectionToken.from_fd(link.receive()["fd"])
            collection = stack.enter_context(allocator.bind_shared_collection(token))

        collection.set_constraints(NEEDS)
        link.send("asked", column=report.asked(NEEDS))
        info = stack.enter_context(collection.wait_for_all_buffers_allocated())
        link.send("got", **report.got(info))
        views = [stack.enter_context(buffer.map()) for buffer in info.buffers]
        layout = pixels.Layout.negotiated(info.settings)

        shown: Message | None = None
        while (message := link.receive_unless_closed(collection)) is not None:
            index = message["buffer"]
            digest = hashlib.sha256(views[index][: layout.size]).hexdigest()
            if message["number"] in arguments.keep:
                rgb = pixels.to_rgb(pixels.look(views[index], layout), layout)
                Image.fromarray(rgb).save(
                    arguments.pictures / f"{message['number']}.png", compress_level=1
                )
            intact = digest == message["sha256"]
            link.send("seen", number=message["number"], buffer=index, sha256=digest, intact=intact)
            if shown is not None:
                link.send("returned", buffer=shown["buffer"])
            shown = message

        noticed = time.monotonic_ns()
        # The collection is gone, the memory isn't: it lives as long as somebody has it open or mapped. And the camera
        # has never got back the buffer on our screen, so there is no other picture in it.
        intact = False
        if shown is not None:
            view = views[shown["buffer"]]
            intact = hashlib.sha256(view[: layout.size]).hexdigest() == shown["sha256"]
            Image.fromarray(pixels.look(view, layout)).save(arguments.pictures / "memory.png")
        link.send("noticed", at=noticed, screen_intact=intact)


if __name__ == "__main__":
    main()
