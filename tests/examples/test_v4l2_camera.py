"""The example `v4l2_camera` where there is no camera; with one it is tested in tests/devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from .conftest import Runner


@pytest.mark.parametrize(
    ("device", "told"),
    [
        ("/dev/no-such-camera", "/dev/no-such-camera: there is no such camera"),
        ("/dev/null", "/dev/null is no V4L2 device: Inappropriate ioctl for device"),
    ],
)
def test_without_a_camera_it_says_so(example: Runner, device: str, told: str) -> None:
    run = example.run("v4l2_camera", "--device", device)
    assert run.returncode == 1
    assert told in run.stderr
    assert "Traceback" not in run.stderr
