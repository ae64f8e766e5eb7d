"""The pages of docs/ are true: their Python runs, and their links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sysmem.pytest_plugin import Daemon

from .gstreamer import run_with_gstreamer

DOCS = Path(__file__).parents[1] / "docs"
#: Pages whose blocks of Python are one program, and what that needs to be installed.
PROGRAMS: dict[str, list[str]] = {
    "frames.md": [],
    "opencv.md": ["cv2"],
    "pictures.md": [],
    "pillow.md": [],
    "pyav.md": ["av"],
    "torch.md": ["torch"],
}


def blocks(page: str) -> list[str]:
    found = re.findall(r"^```python\n(.*?)^```$", (DOCS / page).read_text(), re.M | re.S)
    assert found
    return found


@pytest.mark.parametrize("page", PROGRAMS)
def test_the_python_blocks_run_one_after_the_other(
    page: str, sysmemd: Daemon, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for needed in PROGRAMS[page]:
        pytest.importorskip(needed, reason=f"{needed} isn't installed")
    monkeypatch.setenv("SYSMEM_RUNTIME_DIR", str(sysmemd.runtime_dir))
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    for block in blocks(page):
        exec(compile(block, page, "exec"), names)


def test_the_program_of_gstreamer_runs_with_the_system_s_python(
    sysmemd: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSMEM_RUNTIME_DIR", str(sysmemd.runtime_dir))
    run_with_gstreamer("\n".join(blocks("gstreamer.md")))


@pytest.mark.parametrize("page", sorted(str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md")))
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (DOCS / page).read_text())
    folder = (DOCS / page).parent
    assert [t for t in targets if "://" not in t and not (folder / t).exists()] == []


_TESTING = """
import os, subprocess
import pytest, sysmem, trio
from sysmem.testing import *

CAMERA = sysmem.constraints("NV12 64x48", cpu="write often", hold=2)
ENCODER = sysmem.constraints("NV12", cpu="read", hold=1)

def start_my_camera(token):
    token.close()

"""


def test_the_tests_of_the_page_about_testing_pass(tmp_path: Path) -> None:
    """All but the one that runs programs of the reader's own."""
    tests = [block for block in blocks("testing.md") if "kill_matrix" not in block]
    (tmp_path / "test_page.py").write_text(_TESTING + "\n\n".join(tests))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--sysmem-update"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "golden" / "pipeline.txt").exists()
