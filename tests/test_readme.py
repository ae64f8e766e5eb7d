"""The README is correct: its Python code runs, its commands work, its links have targets."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sysmem.testing import Sysmemd

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def commands() -> list[list[str]]:
    lines = "".join(blocks("sh")).splitlines()
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.parametrize("first", ["camera.py", "display.py"])
def test_the_first_program_is_two_processes_that_share_a_picture(
    sysmemd: Sysmemd, tmp_path: Path, first: str
) -> None:
    programs = dict(zip(("camera.py", "display.py"), blocks("python"), strict=False))
    environment = {**os.environ, "SYSMEM_RUNTIME_DIR": str(sysmemd.runtime_dir)}
    for name, text in programs.items():
        assert text.startswith(f"# {name}\n")
        assert "socket" not in text
        (tmp_path / name).write_text(text)
    assert sum(len(text.splitlines()) for text in programs.values()) < 30

    def start(name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "error", name]
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
        )

    with start(first) as one:
        assert one.stderr is not None
        with start(({*programs} - {first}).pop()) as other:
            for process in (one, other):
                assert process.communicate(timeout=40)[1] == ""
    assert (one.returncode, other.returncode) == (0, 0)
    with Image.open(tmp_path / "picture.png") as picture:
        assert picture.size == (640, 480)
        left, right = (picture.convert("L").getpixel((x, 100)) for x in (0, 639))
        assert (left, right) == (0, 255)


def test_the_other_python_blocks_run_one_after_the_other(
    sysmemd: Sysmemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYSMEM_RUNTIME_DIR", str(sysmemd.runtime_dir))
    assert len(blocks("python")) == 6
    names: dict[str, Any] = {}
    for block in blocks("python")[2:5]:  # the last is a test (test_packaging.py)
        exec(compile(block, "README.md", "exec"), names)


def test_there_are_two_commands_for_set_up_and_both_are_targets_of_the_makefile() -> None:
    assert commands()[:2] == [["make", "demo"], ["make", "test"]]
    for target in ("demo", "test"):
        shown = subprocess.run(
            ["make", "--dry-run", target],
            cwd=ROOT,
            env={**os.environ, "MAKEFLAGS": ""},  # as if no other target had called it
            capture_output=True,
            text=True,
            check=True,
        )
        assert "python" in shown.stdout


def test_every_other_command_is_known_to_a_test() -> None:
    assert commands()[2:] == [
        ["sysmemd"],  # every test with a daemon starts it
        *(["sysmemctl", command] for command in ("why", "list", "tree", "holders")),
        ["sysmemctl", "report", "-o", "now.html"],
        ["sysmemctl", "capture", "viewfinder.jsonl", "--seconds", "10"],
        ["sysmemctl", "report", "viewfinder.jsonl", "-o", "viewfinder.html"],
        ["sysmemctl", "explain", "examples/constraints/format_conflict.json"],
    ]  # those of sysmemctl are tested in tests/sysmem/sysmemctl


def test_the_explanation_names_who_conflicts() -> None:
    [*_, command] = commands()
    done = subprocess.run(
        [sys.executable, "-m", "sysmem.sysmemctl", *command[1:]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "smallest conflicting set: decoder (201), compositor (202)" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    "page", ["README.md", "CONTRIBUTING.md", "docs/architecture.md", "packaging/README.md"]
)
def test_links_lead_somewhere(page: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)\)", (ROOT / page).read_text())
    missing = [
        target
        for target in targets
        if "://" not in target and not ((ROOT / page).parent / target).exists()
    ]
    assert not missing
