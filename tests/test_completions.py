"""Completions and manual pages match the parsers, and are installed with the distribution."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARE = ROOT / "packaging" / "share"


def files(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): path.read_text()
        for path in directory.rglob("*")
        if path.is_file()
    }


@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="this Python's argparse words help differently"
)
def test_completions_and_manual_pages_are_up_to_date(tmp_path: Path) -> None:
    subprocess.run([sys.executable, ROOT / "packaging" / "generate.py", tmp_path], check=True)
    assert files(tmp_path) == files(SHARE), "`make docs` writes them"


def test_bash_completes_commands(tmp_path: Path) -> None:
    script = (
        f"source {SHARE / 'bash-completion' / 'completions' / 'sysmemctl'}\n"
        "COMP_WORDS=(sysmemctl ho); COMP_CWORD=1; _shtab_sysmemctl; echo ${COMPREPLY[@]}"
    )
    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert ended.stdout.split() == ["holders"], ended.stderr
