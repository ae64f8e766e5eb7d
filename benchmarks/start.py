"""How long it takes to import the client, to ask whether a daemon is there, and to start one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from daemons import daemon

ROUNDS = 7


def measure() -> dict[str, Any]:
    """Return milliseconds, the minimum of some rounds."""
    with _compiled():
        return _measure()


def _measure() -> dict[str, Any]:
    sysmemctl = Path(sys.executable).with_name("sysmemctl")
    serving, pings = [], []
    for _ in range(ROUNDS):
        with daemon() as served:
            serving.append(served.started_seconds)
            start = time.perf_counter()
            subprocess.run(
                [sysmemctl, "--runtime-dir", served.runtime_dir, "ping"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            pings.append(time.perf_counter() - start)
    return {
        "import_ms": min(_import_ms("sysmem") for _ in range(ROUNDS)),
        "ping_ms": min(pings) * 1e3,
        "serving_ms": min(serving) * 1e3,
    }


def _import_ms(module: str) -> float:
    """Return the time that importing a module adds to the interpreter's start."""
    program = [sys.executable, "-X", "importtime", "-c"]
    told = subprocess.run(
        [*program, f"import {module}"], capture_output=True, text=True, check=True
    )
    total = re.findall(rf"\| +(\d+) \| {module}$", told.stderr, re.MULTILINE)
    return int(total[-1]) / 1e3


@contextmanager
def _compiled() -> Iterator[None]:
    """Compile the modules, as an installation does."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as directory:
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = directory
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)
