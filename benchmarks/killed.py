"""How soon participants learn that another one was killed, and what that costs the daemon."""

from __future__ import annotations

import os
import select
import signal
import statistics
import time
from pathlib import Path
from typing import Any

from measure import settled_cpu_seconds

import sysmem
from sysmem import blocking

SURVIVORS = 4
ROUNDS = 60


def measure(runtime_dir: Path, daemon: int) -> dict[str, Any]:
    """Return ms from the kill until the channel of the last survivor closed, and ms of the daemon's CPU time."""
    delays, cpus = [], []
    with blocking.connect(runtime_dir) as allocator:
        for _ in range(ROUNDS):
            with allocator.allocate_shared_collection() as root:
                rights = [sysmem.Rights.SAME_RIGHTS] * (SURVIVORS + 1)
                victim, *survivors = root.duplicate_sync(rights)
                descriptor = victim.detach()
                pid = os.fork()
                if pid == 0:  # it has this one only: forks get no client objects
                    signal.pause()
                os.close(descriptor)
                before = settled_cpu_seconds(daemon)
                if _poll(root).poll(0):
                    raise RuntimeError("the tree failed before")
                start = time.perf_counter()
                os.kill(pid, signal.SIGKILL)
                for survivor in survivors:
                    _poll(survivor).poll()
                delays.append(time.perf_counter() - start)
                cpus.append(settled_cpu_seconds(daemon) - before)
                os.waitpid(pid, 0)
                for survivor in survivors:
                    survivor.close()
    delays.sort()
    return {
        "known_p50_ms": delays[len(delays) // 2] * 1e3,
        "known_p99_ms": delays[int(len(delays) * 0.99)] * 1e3,
        "daemon_cpu_ms": statistics.median(cpus) * 1e3,
    }


def _poll(node: blocking.BufferCollectionToken) -> select.poll:
    """What is readable once a node's channel is closed."""
    poll = select.poll()
    poll.register(node.fileno(), 0)
    return poll
