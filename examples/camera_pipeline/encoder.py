"""The encoder: a process that compresses frames where the camera wrote them, into an MP4 file.

The initiator (`__main__.py`) runs it, and kills it in the end.
"""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path

import av

import clip
import report
import sysmem
from sysmem import blocking
from sysmem.blocking.frames import FrameReceiver
from talk import participants_arguments, participate, tell

NEEDS = sysmem.BufferCollectionConstraints(
    usage=sysmem.BufferUsage(
        cpu=sysmem.CpuUsage.READ_OFTEN,
        video=sysmem.VideoUsage.HW_ENCODER,
    ),
    # The frame that is being compressed, and the next one.
    min_buffer_count_for_camping=2,
    # One more buffer for all makes up for frames that take longer than others.
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
    parser = participants_arguments()
    parser.add_argument("--file", type=Path, required=True, help="the video to write")
    arguments = parser.parse_args()

    with ExitStack() as stack:
        with blocking.connect(name="encoder") as allocator:
            token = blocking.BufferCollectionToken.from_fd(arguments.token)
            collection = stack.enter_context(allocator.bind_shared_collection(token))

        collection.set_constraints(NEEDS)
        tell("asked", column=report.asked(NEEDS))
        info = stack.enter_context(collection.wait_for_all_buffers_allocated())
        tell("got", **report.got(info))

        container = stack.enter_context(av.open(str(arguments.file), "w"))
        stream = clip.encoder(container)
        receiver = stack.enter_context(FrameReceiver(arguments.frames[0], info))
        for frame in receiver:
            with frame:
                digest = hashlib.sha256(frame.buffer.mapping()[: frame.size]).hexdigest()
                picture = frame.buffer.video_frame(
                    pts=frame.sequence, time_base=Fraction(1, clip.FRAMES_PER_SECOND), copy=False
                )
                if stream.codec_context.pix_fmt != picture.format.name:
                    picture = picture.reformat(format=stream.codec_context.pix_fmt)
                packets = stream.encode(picture)
                container.mux(packets)
            # The encoder has read the frame: the camera may overwrite it.
            tell(
                "seen",
                number=frame.sequence,
                buffer=frame.index,
                intact=digest == frame.metadata["sha256"],
                bytes=sum(packet.size for packet in packets),
            )
        container.mux(stream.encode(None))
        container.close()
        tell(
            "encoded",
            codec=stream.codec_context.codec.long_name,
            bytes=arguments.file.stat().st_size,
        )
        collection.wait_closed()


if __name__ == "__main__":
    participate(main)
