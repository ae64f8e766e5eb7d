"""How long snapshots of 10,000 nodes make another client wait.

    python benchmarks/snapshots.py [NODES]

Another process calls Sync repeatedly, in turn without other load and while a third process asks for snapshots in a
loop. Two times are measured, in milliseconds: the time of a call, and the daemon's CPU time during it, which does not
depend on other users of the machine. The phases without load are the control.
"""

from __future__ import annotations

import contextlib
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from daemons import daemon

import sysmem
from sysmem import blocking
from sysmem._inspector import Inspector

#: A lower number if the limit of descriptors is low: a user gets half of them.
NODES = 10_000
#: The number of pairs of a quiet and a busy phase, and the seconds of each phase.
ROUNDS = 3
SECONDS = 3.0
_AT_ONCE = 64
#: The other client: prints how long each Sync takes, and the daemon's CPU time during it.
OTHER = """
import json, sys, time
from pathlib import Path
from sysmem import blocking
tasks = [task / "schedstat" for task in Path("/proc", sys.argv[2], "task").iterdir()]
files = [open(task, "rb", buffering=0) for task in tasks]
def worked():
    found = 0
    for file in files:
        file.seek(0)
        try:
            found += int(file.read().split()[0])
        except OSError:  # a thread that has ended
            pass
    return found
with blocking.connect(sys.argv[1]) as allocator, allocator.allocate_shared_collection() as token:
    token.sync()
    taken = []
    end = time.monotonic() + float(sys.argv[3])
    while time.monotonic() < end:
        before, start = worked(), time.perf_counter()
        token.sync()
        taken.append(((time.perf_counter() - start) * 1e3, (worked() - before) / 1e6))
        time.sleep(0.001)
    print(json.dumps(taken))
"""
#: The inspector: measures each snapshot until its input ends.
ASK = """
import json, select, sys, time
from sysmem._inspector import Inspector
with Inspector.connect(sys.argv[1]) as inspector:
    taken = []
    inspector.snapshot()
    print("asking", flush=True)
    while not select.select([sys.stdin], [], [], 0)[0]:
        start = time.perf_counter()
        inspector.snapshot()
        taken.append(time.perf_counter() - start)
    print(json.dumps(taken))
"""


def measure(runtime_dir: Path, pid: int, nodes: int = NODES) -> dict[str, Any]:
    """Fill a daemon, as far as the limit of descriptors allows, and measure."""
    _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    nodes = min(nodes, (descriptors - 1024) // 2 - 512)
    with contextlib.ExitStack() as stack:
        # No connection gets more than half of what its user has left.
        left = nodes
        while left > 1:
            allocator = stack.enter_context(blocking.connect(runtime_dir))
            root = stack.enter_context(allocator.allocate_shared_collection())
            size = left = left // 2
            for start in range(0, size, _AT_ONCE):
                masks = [sysmem.Rights.SAME_RIGHTS] * min(_AT_ONCE, size - start)
                for token in root.duplicate_sync(masks):
                    stack.callback(token.close)
        quiet: list[list[float]] = []
        busy: list[list[float]] = []
        snapshots: list[float] = []
        for _ in range(ROUNDS):
            quiet += _other(runtime_dir, pid)
            command = [sys.executable, "-c", ASK, str(runtime_dir)]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as asking:
                assert asking.stdout is not None
                assert asking.stdout.readline() == "asking\n"
                busy += _other(runtime_dir, pid)
                answer, _ = asking.communicate()
            snapshots += json.loads(answer)
        with Inspector.connect(runtime_dir) as inspector:
            content = inspector.snapshot()
    return {
        "nodes": content["totals"]["nodes"],
        "snapshot_bytes": len(json.dumps(content)),
        "snapshot_ms": statistics.median(snapshots) * 1e3,
        "snapshots": len(snapshots),
        "quiet": _summary(quiet),
        "busy": _summary(busy),
    }


def _other(runtime_dir: Path, pid: int) -> list[list[float]]:
    """Let the other client make calls for a while."""
    command = [sys.executable, "-c", OTHER, str(runtime_dir), str(pid), str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    taken: list[list[float]] = json.loads(done.stdout)
    return taken


def _summary(taken: list[list[float]]) -> dict[str, float]:
    summary: dict[str, float] = {"calls": len(taken)}
    for name, values in zip(
        ("wait_ms", "daemon_worked_ms"), map(sorted, zip(*taken, strict=True)), strict=True
    ):
        summary |= {
            f"{name}_p50": statistics.median(values),
            f"{name}_p99": values[len(values) * 99 // 100],
            f"{name}_longest": values[-1],
        }
    return summary


def main() -> int:
    """Print the figures."""
    nodes = int(sys.argv[1]) if len(sys.argv) > 1 else NODES
    with daemon() as served:
        found = measure(served.runtime_dir, served.pid, nodes)
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
