"""The video that the camera plays: a file, a device, or a clip that pans and zooms over a photograph."""

from __future__ import annotations

import math
import stat
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from PIL import Image, ImageDraw, ImageFont, ImageOps

WIDTH, HEIGHT = 640, 480
FRAMES_PER_SECOND = 24
FRAMES = 48
#: FFmpeg's number for Rec. 709: primaries, transfer function and matrix.
REC709 = 1
LIMITED_RANGE = 1


def frames(video: Path) -> Iterator[av.VideoFrame]:
    """Yield the pictures of a video file, or of a camera such as /dev/video0."""
    device = stat.S_ISCHR(video.stat().st_mode)
    with av.open(str(video), format="v4l2" if device else None) as container:
        yield from container.decode(video=0)


def encoder(container: OutputContainer) -> av.VideoStream:
    """Add a stream to a file that is written: H.264 if this PyAV has an encoder for it, else MPEG-4."""
    codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
    options = {"preset": "veryfast"} if codec == "libx264" else {}
    stream = container.add_stream(codec, rate=FRAMES_PER_SECOND, options=options)
    assert isinstance(stream, av.VideoStream)
    context = stream.codec_context
    context.width, context.height = WIDTH, HEIGHT
    # Both take NV12 from us; MPEG-4's encoder wants it converted.
    context.pix_fmt = "nv12" if codec == "libx264" else "yuv420p"
    context.color_primaries = context.color_trc = context.colorspace = REC709
    context.color_range = LIMITED_RANGE
    return stream


def render(photograph: Path, file: Path) -> None:
    """Make a clip of a photograph. Each frame shows its number, so that no two frames are the same."""
    with Image.open(photograph) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    with av.open(str(file), "w") as container:
        stream = encoder(container)
        stream.codec_context.bit_rate = 16_000_000
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(
                np.asarray(take_frame(picture, number)), format="rgb24"
            )
            frame.pts, frame.time_base = number, Fraction(1, FRAMES_PER_SECOND)
            converted = frame.reformat(
                format=stream.codec_context.pix_fmt,
                dst_colorspace=REC709,
                dst_color_range=LIMITED_RANGE,
            )
            container.mux(stream.encode(converted))
        container.mux(stream.encode(None))


def in_view(photograph: Image.Image, number: int) -> tuple[float, float, float, float]:
    """Return the part of the photograph that a frame shows: left, upper, right, lower."""
    swing = (1 - math.cos(number * math.pi / 24)) / 2  # 0 to 1 and back in 48 frames
    zoom = 1 - 0.5 * swing
    width = min(photograph.width, photograph.height * WIDTH / HEIGHT) * zoom
    height = width * HEIGHT / WIDTH
    left = (photograph.width - width) * (0.5 - 0.1 * swing)
    upper = (photograph.height - height) * (0.5 - 0.25 * swing)
    return left, upper, left + width, upper + height


def take_frame(photograph: Image.Image, number: int) -> Image.Image:
    """Return the picture of a frame, with its number."""
    size = (WIDTH, HEIGHT)
    frame = photograph.resize(size, Image.Resampling.BILINEAR, box=in_view(photograph, number))
    draw = ImageDraw.Draw(frame)
    draw.rounded_rectangle((16, 16, 120, 62), 8, fill="black")
    draw.ellipse((28, 32, 42, 46), fill="red")
    draw.text((54, 39), f"{number:03}", "white", ImageFont.load_default(30), anchor="lm")
    return frame
