"""Taking times: wall clock of a call, CPU time of processes, and where they run."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def pinned(cpu: int | None, *pids: int) -> Iterator[None]:
    """Keep this process and others on one core within the block; None leaves them where they are."""
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
    """The CPU time that a process, all threads, has used so far."""
    return (
        sum(
            int((task / "schedstat").read_text().split()[0])
            for task in Path(f"/proc/{pid}/task").iterdir()
        )
        / 1e9
    )


def per_call(
    call: Callable[[], object], server: int, *, calls: int, rounds: int
) -> dict[str, float]:
    """Microseconds a call, the median of some rounds, with the CPU time on both sides."""
    for _ in range(calls // 5):
        call()
    walls, clients, servers = [], [], []
    for _ in range(rounds):
        client_cpu, server_cpu = cpu_seconds(os.getpid()), cpu_seconds(server)
        start = time.perf_counter()
        for _ in range(calls):
            call()
        walls.append(time.perf_counter() - start)
        clients.append(cpu_seconds(os.getpid()) - client_cpu)
        servers.append(cpu_seconds(server) - server_cpu)
    return {
        "wall_us": statistics.median(walls) / calls * 1e6,
        "client_cpu_us": statistics.median(clients) / calls * 1e6,
        "server_cpu_us": statistics.median(servers) / calls * 1e6,
    }
