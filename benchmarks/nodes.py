"""The cost of creating, keeping and failing many nodes. Idle nodes must cost only memory."""

from __future__ import annotations

import resource
import select
import time
from pathlib import Path
from typing import Any

from measure import settled_cpu_seconds

import sysmem
from sysmem import blocking

#: A lower number if the limit of descriptors is low: a user gets half of them, and one connection half of that.
NODES = 10_000
_AT_ONCE = 64
_ONES = 50
_TIMES = 5
_IDLE_SECONDS = 1.0


def measure(runtime_dir: Path, daemon: int) -> dict[str, Any]:
    """Return the daemon's CPU time and memory for each node, and the wake-ups of an idle daemon."""
    _, descriptors = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors))
    wanted = min(NODES, (descriptors - 1024) // 4 - 2 * _TIMES * _ONES)
    with blocking.connect(runtime_dir) as allocator:
        with allocator.allocate_shared_collection() as root:
            root.duplicate_sync([sysmem.Rights.SAME_RIGHTS])[0].close()
        root = allocator.allocate_shared_collection()
        first = _duplicate(root, daemon)
        cpu, memory = settled_cpu_seconds(daemon), _resident_bytes(daemon)
        kept: list[blocking.BufferCollectionToken] = []
        while len(kept) < wanted:
            kept += root.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * _AT_ONCE)
        made = (settled_cpu_seconds(daemon) - cpu) / len(kept)
        size = (_resident_bytes(daemon) - memory) / len(kept)
        last = _duplicate(root, daemon)
        cpu = settled_cpu_seconds(daemon)
        switches = _switches(daemon)
        time.sleep(_IDLE_SECONDS)
        wake_ups = _switches(daemon) - switches
        root.close()
        poll = select.poll()
        poll.register(kept[0].fileno(), 0)
        poll.poll()  # it failed
        failed = (settled_cpu_seconds(daemon) - cpu) / len(kept)
        for token in kept:
            token.close()
    return {
        "nodes": len(kept),
        "make_cpu_us": made * 1e6,
        "fail_cpu_us": failed * 1e6,
        "bytes": size,
        "wake_ups_a_second": wake_ups / _IDLE_SECONDS,
        "last_to_first_ratio": last / first,
    }


def _duplicate(root: blocking.BufferCollectionToken, daemon: int) -> float:
    """Return the daemon's CPU time for one more node, the minimum of some rounds."""
    times = []
    for _ in range(_TIMES):
        made = []
        cpu = settled_cpu_seconds(daemon)
        for _ in range(_ONES):
            made += root.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        times.append(settled_cpu_seconds(daemon) - cpu)
        for token in made:
            token.release()
    return min(times) / _ONES


def _resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _switches(pid: int) -> int:
    """Return how often a process has gone to sleep."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    raise RuntimeError("the kernel doesn't count")
