"""Taking times: wall clock of a call, CPU time of processes, where they run, and how results are written."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

#: A process that has used no CPU time for this long is idle.
_SETTLED_SECONDS = 0.003


@contextmanager
def pinned(cpu: int | None, *pids: int) -> Iterator[None]:
    """Keep this process and others on one core within the block. With None they stay where they are."""
    if cpu is None:
        yield
        return
    before = {pid: os.sched_getaffinity(pid) for pid in (0, *pids)}
    for pid in before:
        os.sched_setaffinity(pid, {cpu})
    try:
        yield
    finally:
        for pid, cpus in before.items():
            os.sched_setaffinity(pid, cpus)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that all threads of a process have used so far."""
    return (
        sum(
            int((task / "schedstat").read_text().split()[0])
            for task in Path(f"/proc/{pid}/task").iterdir()
        )
        / 1e9
    )


def settled_cpu_seconds(pid: int) -> float:
    """Wait until a process is idle, and return the CPU time that it has used so far."""
    used = cpu_seconds(pid)
    while True:
        time.sleep(_SETTLED_SECONDS)
        before, used = used, cpu_seconds(pid)
        if used == before:
            return used


def machine() -> dict[str, object]:
    """Return a description of the machine and of the versions in use."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in _lines("/proc/cpuinfo")
            if "model name" in line
        ),
        platform.machine(),
    )
    return {
        "kernel": platform.release(),
        "python": platform.python_version(),
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "load": os.getloadavg()[0],
        **{name: version(name) for name in ("sysmem", "trio", "cbor2", "greenlet", "structlog")},
    }


def write(results: dict[str, Any], out: Path | None) -> None:
    """Write results as JSON into a file, or to stdout."""
    text = json.dumps(results, indent=2)
    if out:
        out.write_text(text + "\n")
    else:
        print(text)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()
