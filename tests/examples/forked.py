"""The scripts of an example as forked processes: the same code, without Python's second of imports."""

from __future__ import annotations

import fcntl
import os
import runpy
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from sysmem.testing import Process, Zygote

#: The slow imports of the examples' scripts.
PRELOADED = ("av", "numpy", "PIL.Image", "PIL.ImageDraw", "PIL.ImageFont", "sysmem.blocking.frames")
#: A number above all descriptors that a newly forked process has open.
_FREE = 100


def initiator(script: str, arguments: list[str], fds: list[int]) -> None:
    """Run a script whose subprocesses are forked by the zygote at the last descriptor."""
    zygote = Zygote.from_fd(fds[-1])

    def popen(command: list[str], **options: Any) -> Forked:
        return Forked(zygote, command, **options)

    subprocess.Popen = popen  # type: ignore[assignment, misc]
    _run(script, arguments)


def participant(command: list[str], numbers: list[int], fds: list[int]) -> None:
    """Run a script that has inherited descriptors under these numbers. The last one is its standard output."""
    kept = [fcntl.fcntl(fd, fcntl.F_DUPFD, _FREE) for fd in fds]
    for fd, number in zip(kept, [*numbers, 1], strict=True):
        os.dup2(fd, number)
    for fd in {*fds, *kept}.difference(numbers):
        os.close(fd)
    _run(command[1], command[2:])


def _run(script: str, arguments: list[str]) -> None:
    path = Path(script)
    directory = path if path.is_dir() else path.parent
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(directory))
    runpy.run_path(str(path / "__main__.py" if path.is_dir() else path), run_name="__main__")


class Forked:
    """The part of `subprocess.Popen` that the example's initiator uses."""

    def __init__(
        self,
        zygote: Zygote,
        command: list[str],
        *,
        pass_fds: Iterable[int],
        env: Mapping[str, str],
        **_: object,
    ) -> None:
        numbers = list(pass_fds)
        read, write = os.pipe()
        try:
            self._process: Process = zygote.start(
                f"{__name__}:participant",
                command,
                numbers,
                fds=[*numbers, write],
                environment=env,
            )
        finally:
            os.close(write)
        self.stdout = os.fdopen(read, "rb", buffering=0)
        self.pid = self._process.pid
        self.poll = self._process.poll
        self.wait = self._process.wait
        self.kill = self._process.kill

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stdout.close()
        self.wait()
        self._process.close()
