"""How long snapshots of many nodes make another client wait.

    python benchmarks/snapshots.py [NODES]

Prints JSON: how long a Sync of another process takes while nothing happens, and while an inspector asks for snapshots
all the time: the median, the 99th percentile and the longest, in milliseconds; how long one snapshot takes, and its
size. The longest of the two counts; the first is the control.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from sysmem import blocking
from sysmem._inspector import Inspector

#: Where a process may have 20,000 descriptors, a user gets half of them.
NODES = 9_000
SECONDS = 4.0
#: The other client, a process of its own: for some seconds, how long each Sync takes.
OTHER = """
import json, sys, time
from sysmem import blocking
with blocking.connect(sys.argv[1]) as allocator, allocator.allocate_shared_collection() as token:
    token.sync()
    taken = []
    end = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end:
        start = time.perf_counter()
        token.sync()
        taken.append((time.perf_counter() - start) * 1000)
        time.sleep(0.001)
    print(json.dumps(taken))
"""


def other(directory: Path) -> dict[str, float]:
    """Have the other client call for a while, and sum up how long it waited."""
    command = [sys.executable, "-c", OTHER, str(directory), str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken = sorted(json.loads(done.stdout))
    return {
        "calls": len(taken),
        "median_ms": round(statistics.median(taken), 3),
        "p99_ms": round(taken[len(taken) * 99 // 100], 3),
        "longest_ms": round(taken[-1], 3),
    }


def measure(directory: Path, nodes: int) -> dict[str, Any]:
    """Fill a daemon, and measure. No connection gets more than half of what its user has left."""
    with contextlib.ExitStack() as stack:
        left = nodes
        while left > 1:
            allocator = stack.enter_context(blocking.connect(directory))
            root = stack.enter_context(allocator.allocate_shared_collection())
            size = left = left // 2
            for start in range(0, size, 64):
                for token in root.duplicate_sync([0xFFFFFFFF] * min(64, size - start)):
                    stack.callback(token.close)
        quiet = other(directory)
        stop = threading.Event()
        taken: list[float] = []

        def ask() -> None:
            with Inspector.connect(directory) as inspector:
                while not stop.is_set():
                    start = time.perf_counter()
                    snapshot = inspector.snapshot()
                    taken.append(time.perf_counter() - start)
                    sizes.append(len(json.dumps(snapshot)))

        sizes: list[int] = []
        asking = threading.Thread(target=ask)
        asking.start()
        meanwhile = other(directory)
        stop.set()
        asking.join()
    return {
        "nodes": nodes,
        "quiet": quiet,
        "meanwhile": meanwhile,
        "snapshots": len(taken),
        "snapshot_ms": round(statistics.median(taken) * 1000, 1),
        "snapshot_bytes": sizes[-1],
    }


def main() -> int:
    """Print the figures."""
    nodes = int(sys.argv[1]) if len(sys.argv) > 1 else NODES
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        command = [sys.executable, "-m", "sysmemd", "--runtime-dir", name, "--log-level", "error"]
        with subprocess.Popen(command) as daemon:
            try:
                while not (directory / "sysmem.Inspector").exists():
                    time.sleep(0.01)
                print(json.dumps(measure(directory, nodes), indent=2))
            finally:
                daemon.terminate()
    return 0


if __name__ == "__main__":
    sys.exit(main())
