"""The example `camera_pipeline`, run as its reader does, and its arithmetic."""

from __future__ import annotations

import importlib
import importlib.util
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

import sysmem
from sysmem.testing import Sysmemd

if TYPE_CHECKING:
    from .conftest import Runner

DIRECTORY = Path(__file__).parents[2] / "examples" / "camera_pipeline"
SHOWN = list(range(0, 24, 3))
RED, GREEN, BLUE, YELLOW = (220, 30, 40), (30, 160, 60), (40, 60, 200), (230, 220, 40)

needs_photograph = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="matplotlib has the photograph"
)


@pytest.fixture(scope="module")
def modules() -> Iterator[dict[str, ModuleType]]:
    """The example's modules by name, imported as its scripts do, and forgotten afterwards."""
    names = [path.stem for path in DIRECTORY.glob("*.py")]
    sys.path.insert(0, str(DIRECTORY))
    try:
        yield {name: importlib.import_module(name) for name in names if name != "__main__"}
    finally:
        sys.path.remove(str(DIRECTORY))
        for name in names:
            if name != "__main__":
                del sys.modules[name]


@pytest.fixture
def quadrants(tmp_path: Path) -> Path:
    """A small picture, wider than the camera's, of four colours."""
    picture = np.empty((90, 160, 3), np.uint8)
    picture[:45, :80], picture[:45, 80:] = RED, GREEN
    picture[45:, :80], picture[45:, 80:] = BLUE, YELLOW
    Image.fromarray(picture).save(tmp_path / "quadrants.png")
    return tmp_path / "quadrants.png"


def row(output: str, name: str) -> list[str]:
    """The cells of the table's line that begins with `name`, empty ones left out."""
    (line,) = [line for line in output.splitlines() if line.startswith(name)]
    return re.split(r" {2,}", line)[1:]


def thumbnails(modules: dict[str, ModuleType], sheet: Path) -> list[Image.Image]:
    with Image.open(sheet) as opened:
        image = opened.convert("RGB")
    return [image.crop(modules["contact_sheet"].place(number)) for number in range(12)]


@needs_photograph
def test_the_default_photograph_goes_through_one_negotiated_collection(
    example: Runner, modules: dict[str, ModuleType]
) -> None:
    run = example.run("camera_pipeline")
    assert (run.returncode, run.stderr) == (0, "")

    # Different needs, and what came out of all of them together.
    assert row(run.stdout, "pixel format") == ["NV12", "NV12", "B8G8R8A8", "NV12"]
    assert row(run.stdout, "colour space") == ["REC709", "REC709", "SRGB", "REC709"]
    assert row(run.stdout, "row multiple (lcm)") == ["96", "64", "32", "192"]
    assert row(run.stdout, "bytes a row") == ["768"]
    assert row(run.stdout, "held buffers (sum)") == ["2", "2", "2"]
    assert row(run.stdout, "shared slack (max)") == ["1", "1"]
    assert row(run.stdout, "buffers") == ["7"]
    assert row(run.stdout, "bytes a buffer") == [f"{768 * 480 * 3 // 2:,}"]
    assert row(run.stdout, "may") == ["read, write", "read", "read"]
    assert len(set(row(run.stdout, "buffer 0: inode"))) == 1

    # Byte for byte, then the kill.
    assert "encoder and display found each byte intact" in run.stdout
    noticed = re.search(
        r"^Encoder killed +noticed by initiator (.+) ms, camera (.+) ms, display (.+) ms later$",
        run.stdout,
        re.MULTILINE,
    )
    assert noticed is not None
    assert all(0 <= float(delay) < 10_000 for delay in noticed.groups())
    assert "the memory of all 7 buffers is free again" in run.stdout

    # What is left to look at, in ./out as nothing else was said.
    out = example.directory / "out"
    assert sorted(path.name for path in out.iterdir()) == ["contact_sheet.png", "sysmemd.log"]
    photograph = modules["camera"].open_photograph(str(modules["arguments"].default_photograph()))
    pictures = thumbnails(modules, out / "contact_sheet.png")
    for number, shown in zip(SHOWN, pictures, strict=False):
        frame = Image.fromarray(modules["camera"].take_frame(photograph, number))
        expected = np.asarray(frame.resize(shown.size, Image.Resampling.LANCZOS), np.int16)
        difference = np.abs(np.asarray(shown, np.int16) - expected)
        # What is lost: chroma is halved in both directions.
        assert difference.mean() < 3, f"frame {number}"
        assert np.percentile(difference, 99) < 30, f"frame {number}"
    for changed in pictures[len(SHOWN) :]:
        levels = np.asarray(changed)
        assert abs(float(np.median(levels)) - 128) < 8  # little changes from frame to frame,
        assert levels.std() > 2  # but something does


def test_a_picture_that_the_user_names_is_what_the_display_shows(
    example: Runner, modules: dict[str, ModuleType], quadrants: Path
) -> None:
    run = example.run("camera_pipeline", "--image", str(quadrants), "--out", "here/and there")
    assert (run.returncode, run.stderr) == (0, "")
    sheet = example.directory / "here" / "and there" / "contact_sheet.png"
    assert str(sheet.relative_to(example.directory)) in run.stdout
    with Image.open(sheet) as opened:
        assert opened.format == "PNG"
        assert opened.width > 1000
        assert opened.height > 1000
    first = thumbnails(modules, sheet)[0]
    for (x, y), colour in {
        (0.25, 0.35): RED,
        (0.75, 0.25): GREEN,
        (0.25, 0.75): BLUE,
        (0.75, 0.75): YELLOW,
    }.items():
        found = np.array(first.getpixel((int(x * first.width), int(y * first.height))))
        assert np.abs(found - colour).max() <= 4


def test_it_uses_a_running_daemon_and_leaves_nothing_in_it(
    example: Runner, quadrants: Path, sysmemd: Sysmemd
) -> None:
    run = example.run(
        "camera_pipeline", "--image", str(quadrants), "--runtime-dir", str(sysmemd.runtime_dir)
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "camera_pipeline" in sysmemd.log
    assert [path.name for path in (example.directory / "out").iterdir()] == ["contact_sheet.png"]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_it_can_be_ended_at_any_time_with_nothing_left_behind(
    example: Runner, quadrants: Path, end: signal.Signals
) -> None:
    with subprocess.Popen(
        example.command("camera_pipeline", "--image", str(quadrants)),
        cwd=example.directory,
        env=example.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"Three processes")
        process.send_signal(end)
        assert process.wait(timeout=20) != 0


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--image", "no-such.png"], "no-such.png"),
        (["--image", __file__], "test_camera_pipeline.py"),
    ],
)
def test_without_a_picture_it_says_so(example: Runner, options: list[str], named: str) -> None:
    run = example.run("camera_pipeline", *options)
    assert run.returncode == 1
    assert run.stderr.startswith("camera_pipeline: ")
    assert named in run.stderr
    assert "Traceback" not in run.stderr


def test_without_a_daemon_it_says_where_it_looked(example: Runner, quadrants: Path) -> None:
    run = example.run("camera_pipeline", "--image", str(quadrants), "--runtime-dir", "/nowhere")
    assert run.returncode == 1
    assert "/nowhere" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("pixel_format", ["NV12", "B8G8R8A8"])
def test_what_is_written_in_either_format_is_read_again(
    modules: dict[str, ModuleType], pixel_format: str
) -> None:
    pixels = modules["pixels"]
    layout = pixels.Layout(sysmem.PixelFormat[pixel_format], 8, 4, 48)
    columns = np.array([RED, GREEN, BLUE, YELLOW], np.uint8).repeat(2, axis=0)
    rgb = np.broadcast_to(columns, (4, 8, 3))
    image = pixels.from_rgb(rgb, layout)
    assert image.shape == (layout.rows, 48)
    assert image.nbytes == layout.size
    found = pixels.to_rgb(pixels.look(memoryview(bytes(image.data) + b"more"), layout), layout)
    assert np.abs(found.astype(np.int16) - rgb).max() <= (2 if pixel_format == "NV12" else 0)


def test_black_and_white_are_those_of_rec_709(modules: dict[str, ModuleType]) -> None:
    pixels = modules["pixels"]
    layout = pixels.Layout(sysmem.PixelFormat.NV12, 2, 2, 2)
    black = pixels.from_rgb(np.zeros((2, 2, 3), np.uint8), layout)
    white = pixels.from_rgb(np.full((2, 2, 3), 255, np.uint8), layout)
    assert black.tolist() == [[16, 16], [16, 16], [128, 128]]
    assert white.tolist() == [[235, 235], [235, 235], [128, 128]]


def test_a_byte_that_isnt_as_written_fails_the_run(modules: dict[str, ModuleType]) -> None:
    spec = importlib.util.spec_from_file_location("initiator", DIRECTORY / "__main__.py")
    assert spec is not None
    assert spec.loader is not None
    initiator = importlib.util.module_from_spec(spec)
    sys.modules["initiator"] = initiator
    try:
        spec.loader.exec_module(initiator)
        seen = {number: {"intact": True} for number in range(initiator.FRAMES)}
        reader = initiator.Participant("display", None, None, seen=seen)
        initiator.check_frames(reader)
        seen[5] = {"intact": False}
        with pytest.raises(initiator.FailedError, match="other bytes in frame 5"):
            initiator.check_frames(reader)
        del seen[5]
        with pytest.raises(initiator.FailedError, match="missed a frame"):
            initiator.check_frames(reader)
    finally:
        del sys.modules["initiator"]
