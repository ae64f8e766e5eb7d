"""Fixtures of both examples' tests: they run an example as a user would, and look for leftovers."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

#: Seconds that an example may take on a machine that is busy with other things.
PATIENCE = 240
EXAMPLES = Path(__file__).parents[2] / "examples"


class Runner:
    """Runs an example in a temporary directory of its own, so that all its leftovers can be found."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SYSMEM_", "XDG_"))}
        self.environment = {
            **inherited,
            "TMPDIR": str(self.temporary),
            # The examples complain on stderr, which must be empty.
            "PYTHONWARNINGS": "default",
        }

    def command(self, example: str, *options: str) -> list[str]:
        return [sys.executable, str(EXAMPLES / example), *options]

    def run(self, example: str, *options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(example, *options),
            cwd=self.directory,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def left_behind(self) -> list[str]:
        """Return temporary files and processes that are left. The inherited environment identifies the processes."""
        found = [str(path) for path in self.temporary.iterdir()]
        mark = f"TMPDIR={self.temporary}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # the process has ended, or is a zombie
        return found


@pytest.fixture
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A runner. At the end of the test, nothing of the processes that it started may be left."""
    # A short name: the daemon's sockets are below it, and their paths have a limit.
    runner = Runner(tmp_path_factory.mktemp("x"))
    yield runner
    assert runner.left_behind() == []
