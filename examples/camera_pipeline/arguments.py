"""The command line of the example, and the default photograph."""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import dataclass
from pathlib import Path

from PIL import Image


class UnusableError(Exception):
    """The command line asks for something impossible."""


@dataclass(frozen=True)
class Arguments:
    image: Path | None  # a photograph to make a clip of,
    video: Path | None  # or what to play
    out: Path  # exists
    runtime_dir: str | None


def parse_arguments() -> Arguments:
    parser = argparse.ArgumentParser(
        prog="camera_pipeline",
        description="A camera, an encoder and a display agree on one set of buffers, and use it.",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--video", metavar="FILE", type=Path, help="a video, or a camera such as /dev/video0"
    )
    source.add_argument(
        "--image", metavar="FILE", type=Path, help="a picture to make a clip of; has a default"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, default=Path("out"), help="default: out")
    parser.add_argument("--runtime-dir", metavar="DIR", help="of a running daemon, to use that")
    given = parser.parse_args()
    image = None
    try:
        if given.video is None:
            image = given.image or default_photograph()
            with Image.open(image) as opened:
                opened.load()
        else:
            given.video.stat()
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UnusableError(str(error)) from error
    return Arguments(image, given.video, given.out, given.runtime_dir)


def default_photograph() -> Path:
    """A portrait of Rear Admiral Grace Hopper (James S. Davis, 1984, public domain), which matplotlib ships.

    The file is found without importing matplotlib, because nothing else of it is needed.
    """
    found = importlib.util.find_spec("matplotlib")
    if found is None or found.origin is None:
        raise UnusableError(
            "no photograph: name one with --image, or install matplotlib, which ships one"
        )
    return Path(found.origin).parent / "mpl-data" / "sample_data" / "grace_hopper.jpg"
