"""The pages of docs/ are true: their Python runs, and their links lead somewhere."""

from __future__ import annotations

import re
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


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (DOCS / page).read_text())
    assert [t for t in targets if "://" not in t and not (DOCS / t).exists()] == []
