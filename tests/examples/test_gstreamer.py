"""The example `gstreamer`, run as a reader would run it: with the system's Python, and without GStreamer."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from ..gstreamer import SYSTEM_PYTHON, environment, require_gstreamer
from .conftest import EXAMPLES, PATIENCE

if TYPE_CHECKING:
    from .conftest import Runner


def test_frames_go_through_a_pipeline_from_one_collection_to_another(example: Runner) -> None:
    require_gstreamer()
    run = subprocess.run(
        [SYSTEM_PYTHON, EXAMPLES / "gstreamer"],
        cwd=example.directory,
        env=environment() | {"TMPDIR": str(example.temporary)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "24 frames through the pipeline" in run.stdout
    with Image.open(example.directory / "gstreamer.png") as opened:
        assert opened.size == (320, 180)
        right = np.asarray(opened.convert("RGB"))[:, -32:]
    assert (right > 240).all()  # the final position of the bar


def test_without_gstreamer_it_says_what_is_missing(example: Runner) -> None:
    run = example.run("gstreamer")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("skipped: sysmem.gst needs") or "24 frames" in run.stdout
