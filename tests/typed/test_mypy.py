"""mypy in strict mode, on a user's project that uses the public interface."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest


def test_the_public_interface_has_the_types_that_it_says(tmp_path: Path) -> None:
    pytest.importorskip("mypy")
    shutil.copy(Path(__file__).with_name("public_interface.py"), tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "public_interface.py"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stdout
