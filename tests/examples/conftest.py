"""What both examples' tests do: run one as a user would, and look for what it left behind."""

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
    """Runs an example in a temporary directory of its own, so that all that it leaves there can be seen."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.temporary = directory / "tmp"
        self.temporary.mkdir()
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SYSMEM_", "XDG_"))}
        self.environment = {
            **inherited,
            "TMPDIR": str(self.temporary),
            # Complaints go to stderr, which the tests want empty.
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
        """Temporary files, and processes, found by the environment that they inherited."""
        found = [str(path) for path in self.temporary.iterdir()]
        mark = f"TMPDIR={self.temporary}".encode()
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (process / "environ").read_bytes().split(b"\0"):
                    found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue  # it is gone, or a zombie
        return found


@pytest.fixture
def example(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """A runner; when the test is over, nothing of what it ran may be left."""
    # A short name: the daemon's sockets are below it, and their paths have a limit.
    runner = Runner(tmp_path_factory.mktemp("x"))
    yield runner
    assert runner.left_behind() == []
