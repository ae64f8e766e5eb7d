"""Compare the encoded file with the frames that the camera wrote."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import clip

#: A copy is good if its PSNR is at least this, in decibels.
GOOD = 30.0


@dataclass(frozen=True)
class Comparison:
    """How similar the frames are, in decibels (PSNR), in the order of the frames."""

    psnr: list[float]

    @property
    def worst(self) -> float:
        return min(self.psnr)

    @property
    def mean(self) -> float:
        return float(np.mean(self.psnr))


def compare(encoded: Path, written: Path, keep: dict[int, Path]) -> Comparison:
    """Decode a file and compare its frames with the NV12 images in another; leave pictures of some decoded ones."""
    rows, columns = clip.HEIGHT * 3 // 2, clip.WIDTH
    originals = np.fromfile(written, np.uint8).reshape(-1, rows, columns)
    found = []
    count = 0
    with av.open(str(encoded)) as container:
        for number, frame in enumerate(container.decode(video=0)):
            count += 1
            if number >= len(originals):
                continue
            found.append(_psnr(frame.to_ndarray(format="nv12"), originals[number]))
            if number in keep:
                Image.fromarray(frame.to_ndarray(format="rgb24")).save(
                    keep[number], compress_level=1
                )
    if count != len(originals):
        raise ValueError(f"{encoded} has {count} frames, the camera wrote {len(originals)}")
    return Comparison(found)


def _psnr(one: NDArray[Any], other: NDArray[Any]) -> float:
    error = float(np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2))
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
