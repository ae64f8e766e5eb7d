"""Runs code with the system's Python and its GStreamer bindings, which no virtual environment has."""

from __future__ import annotations

import functools
import os
import site
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SYSTEM_PYTHON = Path("/usr/bin/python3")
PACKAGES = "python3-gst-1.0 gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-base"
_PRELUDE = """\
import gi
for name, version in (("Gst", "1.0"), ("GstVideo", "1.0"), ("GstAllocators", "1.0"), ("GstApp", "1.0")):
    gi.require_version(name, version)
from gi.repository import Gst, GstAllocators, GstApp, GstVideo
Gst.init(None)
"""
_TRACED = "import coverage; coverage.process_startup()\n"  # `.pth` files do that, but not in PYTHONPATH's directories


def environment() -> dict[str, str]:
    """Return the environment for the system's Python: the packages of this environment, and this project.

    The bindings import modules in an old way, of which Python warns.
    """
    places = [*(ROOT / name for name in ("client", "protocol", "server")), *site.getsitepackages()]
    warnings = filter(None, (os.environ.get("PYTHONWARNINGS"), "ignore::ImportWarning"))
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, places)),
        "PYTHONWARNINGS": ",".join(warnings),
    }


@functools.cache
def _missing() -> str | None:
    """Return why there is no GStreamer for Python here, or None if there is."""
    if not SYSTEM_PYTHON.exists():
        return f"no {SYSTEM_PYTHON}"
    version = (
        f"import sys; assert sys.version_info[:2] == {sys.version_info[:2]}, 'another Python'\n"
    )
    tried = subprocess.run(
        [SYSTEM_PYTHON, "-c", version + _PRELUDE],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    if tried.returncode == 0:
        return None
    return f"no GStreamer for {SYSTEM_PYTHON} ({tried.stderr.strip().splitlines()[-1]}): apt-get install {PACKAGES}"


def require_gstreamer() -> None:
    """Skip the test if the system's Python has no GStreamer, or not this version."""
    if reason := _missing():
        pytest.skip(reason)


def run_with_gstreamer(code: str, *arguments: str) -> str:
    """Return the output of a program that uses Gst, GstAllocators, GstApp and GstVideo. Skips the test without them."""
    require_gstreamer()
    done = subprocess.run(
        [SYSTEM_PYTHON, "-c", _TRACED + _PRELUDE + textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
