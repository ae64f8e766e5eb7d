"""A camera, an encoder, a scan-out plane or a compositor: `participant.py ROLE --token NAME`.

It takes the token that is on offer under that name, turns it in, says how that went, and then does as it is told on
standard input, one line an answer: `write NUMBER`, `read NUMBER` (of a buffer; the answer is the SHA-256 of what is in
it) or `look`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys

import sysmem
from sysmem import blocking

WRITES = sysmem.BufferUsage(cpu=sysmem.CpuUsage.WRITE_OFTEN, video=sysmem.VideoUsage.CAPTURE)
READS = sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ_OFTEN)
SCANS_OUT = sysmem.BufferUsage(display=sysmem.DisplayUsage.LAYER)

NV12 = sysmem.ImageFormatConstraints(
    pixel_format=sysmem.PixelFormat.NV12,
    color_spaces=[sysmem.ColorSpace.REC709],
    min_size=sysmem.SizeU(320, 240),
)
BGRA = sysmem.ImageFormatConstraints(
    pixel_format=sysmem.PixelFormat.B8G8R8A8,
    color_spaces=[sysmem.ColorSpace.SRGB],
    min_size=sysmem.SizeU(320, 240),
)

#: For each role: its usage, how many buffers it holds at a time, and the formats that it supports.
ROLES = {
    "camera": (WRITES, 2, [NV12, BGRA]),
    "encoder": (READS, 2, [NV12]),
    # Shows buffers directly. This would be the cheapest way, but it does not support NV12.
    "plane": (SCANS_OUT, 2, [BGRA]),
    # Draws buffers into an image that the screen can show. This is more work, but supports both formats.
    "compositor": (READS, 1, [NV12, BGRA]),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("role", choices=ROLES)
    parser.add_argument("--token", required=True, help="the name under which it is on offer")
    arguments = parser.parse_args()
    _, _, formats = ROLES[arguments.role]
    say("can do " + " or ".join(name(image) for image in formats))

    with blocking.connect(name=arguments.role) as allocator:
        collection = allocator.bind_shared_collection(allocator.take(arguments.token))
    with collection:
        collection.set_constraints(needs(arguments.role))
        try:
            info = collection.wait_for_all_buffers_allocated()
        except sysmem.PeerClosedError:
            # This is neither an error of this participant nor of the collection: there is no answer, and the channel is
            # closed. The group selected another child (or a participant failed on which all others depend).
            say("no buffers: my channel was closed")
            return
        with info:
            image = info.settings.image_format_constraints
            say(f"got {len(info.buffers)} buffers of {name(image)}")
            obey(collection, info)
        # Leaves without making the others fail.
        collection.release()


def needs(role: str) -> sysmem.BufferCollectionConstraints:
    """Return the constraints of a role."""
    usage, buffers, formats = ROLES[role]
    return sysmem.BufferCollectionConstraints(
        usage=usage,
        min_buffer_count_for_camping=buffers,
        image_format_constraints=formats,
    )


def obey(collection: blocking.BufferCollection, info: sysmem.BufferCollectionInfo) -> None:
    """Execute the commands on standard input until it ends."""
    for line in sys.stdin:
        match line.split():
            case ["write", index]:
                with info.buffers[int(index)].map() as view:
                    view[:] = os.urandom(len(view))
                    say(f"wrote {hashlib.sha256(view).hexdigest()}, buffer {index}")
            case ["read", index]:
                with info.buffers[int(index)].map() as view:
                    say(f"read {hashlib.sha256(view).hexdigest()}, buffer {index}")
            case ["look"]:
                closed = collection.wait_closed(timeout=0)
                say("my channel was closed" if closed else "my channel is open, as it always was")


def name(image: sysmem.ImageFormatConstraints | None) -> str:
    return sysmem.PixelFormat(image.pixel_format).name if image and image.pixel_format else "bytes"


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
