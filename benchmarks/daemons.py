"""A daemon to measure, started as a process in the way that an administrator would start it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

#: The quotas are so high that no benchmark reaches them.
CONFIG = """
mode = "0666"
[inspect]
mode = "0666"
[log]
format = "json"
[quota]
nodes = 100000
"""


@dataclass(frozen=True)
class Daemon:
    """A running daemon."""

    runtime_dir: Path
    pid: int
    #: Seconds from exec until it was ready.
    started_seconds: float


@contextmanager
def daemon(cpu: int | None = None, config: str = CONFIG) -> Iterator[Daemon]:
    """Run a daemon for all users, on one core or on all. Nobody reads its log."""
    with (
        tempfile.TemporaryDirectory() as name,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify,
    ):
        directory = Path(name)
        directory.chmod(0o711)
        runtime_dir, file = directory / "run", directory / "sysmemd.toml"
        runtime_dir.mkdir()
        runtime_dir.chmod(0o711)
        file.write_text(config)
        notify.bind(name + "/notify")
        start = time.perf_counter()
        process = subprocess.Popen(
            [
                *(() if cpu is None else ("taskset", "-c", str(cpu))),
                *(sys.executable, "-m", "sysmemd", "--runtime-dir", runtime_dir, "--config", file),
            ],
            env={**os.environ, "NOTIFY_SOCKET": name + "/notify"},
            stderr=subprocess.DEVNULL,
        )
        try:
            while b"READY=1" not in notify.recv(4096):
                pass
            yield Daemon(runtime_dir, process.pid, time.perf_counter() - start)
        finally:
            process.kill()
            process.wait()
