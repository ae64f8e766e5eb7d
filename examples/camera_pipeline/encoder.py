"""The encoder: a process that reads frames where the camera wrote them, and compresses what changed in the luma.

Run by the initiator (`__main__.py`), which kills it in the end.
"""

from __future__ import annotations

import argparse
import hashlib
import socket
import time
import zlib
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np
from PIL import Image

import pixels
import report
import sysmem
from link import Link
from sysmem import blocking

NEEDS = sysmem.BufferCollectionConstraints(
    usage=sysmem.BufferUsage(
        cpu=sysmem.CpuUsage.READ_OFTEN,
        video=sysmem.VideoUsage.HW_ENCODER,
    ),
    # The frame that is being compressed, and the one before it, which it is compared with.
    min_buffer_count_for_camping=2,
    # One more, wherever it is, hides that some frames take longer than others.
    min_buffer_count_for_shared_slack=1,
    image_format_constraints=[
        sysmem.ImageFormatConstraints(
            pixel_format=sysmem.PixelFormat.NV12,
            color_spaces=[sysmem.ColorSpace.REC709, sysmem.ColorSpace.REC601_NTSC],
            max_size=sysmem.SizeU(4096, 4096),
            # It works on blocks of 16 by 16 pixels, and reads 64 bytes at a time.
            size_alignment=sysmem.SizeU(16, 16),
            bytes_per_row_divisor=64,
        )
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
        with blocking.connect(name="encoder") as allocator:
            token = blocking.BufferCollectionToken.from_fd(link.receive()["fd"])
            collection = stack.enter_context(allocator.bind_shared_collection(token))

        collection.set_constraints(NEEDS)
        link.send("asked", column=report.asked(NEEDS))
        info = stack.enter_context(collection.wait_for_all_buffers_allocated())
        link.send("got", **report.got(info))
        views = [stack.enter_context(buffer.map()) for buffer in info.buffers]
        layout = pixels.Layout.negotiated(info.settings)

        reference: int | None = None
        while (message := link.receive_unless_closed(collection)) is not None:
            index = message["buffer"]
            digest = hashlib.sha256(views[index][: layout.size]).hexdigest()
            changed = difference(views, index, reference, layout)
            if message["number"] in arguments.keep:
                picture = Image.fromarray(changed + np.uint8(128))  # gray where nothing changed
                picture.save(arguments.pictures / f"{message['number']}.png")
            link.send(
                "seen",
                number=message["number"],
                buffer=index,
                intact=digest == message["sha256"],
                bytes=len(zlib.compress(changed.data, level=1)),
            )
            # The camera may overwrite the previous frame now; this one is what the next is compared with.
            if reference is not None:
                link.send("returned", buffer=reference)
            reference = index

        link.send("noticed", at=time.monotonic_ns())


def difference(
    views: list[memoryview], index: int, reference: int | None, layout: pixels.Layout
) -> pixels.Bytes:
    """The luma of one buffer minus that of another, modulo 256; both are read where they are."""
    luma = pixels.luma(pixels.look(views[index], layout), layout)
    if reference is None:
        return luma.copy()
    return luma - pixels.luma(pixels.look(views[reference], layout), layout)


if __name__ == "__main__":
    main()
