"""How long other users must wait while one user abuses the daemon (`docs/spec/robustness.md`, "Fair turns").

    sudo python benchmarks/fairness.py [ABUSE ...] [--seconds N] [--json FILE]

Two real users: the abuser on one core, the daemon and the other user on another. The other user's Sync and two-party
negotiations are timed while it is quiet and while it is abused, in turn, beside a control in which the abuser works
against another daemon on its own core. A row passes if the p99 is at most the larger of 2 × the quiet one and the
quiet one + 5 ms.

The other user shares a core with the daemon. The result also says how long the kernel made the other user wait for that
core. A daemon that always has work to do cannot change that.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import abuses
from daemons import daemon

import sysmem
from sysmem import blocking

ABUSER, OTHER = 65501, 65502
#: The number of pairs of a quiet and an abused phase.
ROUNDS = 2
#: Seconds that the abuser may take to prepare.
_HEAD_START_SECONDS = 0.3
#: Seconds after which an abuser that has stopped itself is continued.
_STOPPED_SECONDS = 0.1


@dataclass
class Times:
    """How long calls took, in seconds."""

    sync: list[float] = field(default_factory=list)
    negotiation: list[float] = field(default_factory=list)
    #: For each negotiation, how long the process was ready to run while the kernel ran others.
    runnable: list[float] = field(default_factory=list)


@contextlib.contextmanager
def abuser(abuse: Callable[[abuses.User], None], runtime_dir: Path, cpu: int) -> Iterator[None]:
    """Run a process of another user that abuses a daemon."""
    pid = os.fork()
    if pid == 0:
        try:
            os.sched_setaffinity(0, {cpu})
            os.setresgid(ABUSER, ABUSER, ABUSER)
            os.setresuid(ABUSER, ABUSER, ABUSER)
            while True:
                with contextlib.suppress(OSError):  # the daemon refused it: try again
                    abuse(abuses.User(runtime_dir))
        finally:
            os._exit(0)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def other_user(runtime_dir: Path, cpu: int, seconds: float) -> Times:
    """Measure the calls of another user for some time."""
    receiver, sender = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(receiver)
            os.sched_setaffinity(0, {cpu})
            os.setresgid(OTHER, OTHER, OTHER)
            os.setresuid(OTHER, OTHER, OTHER)
            times = _work(runtime_dir, seconds)
            with open(sender, "w") as file:
                json.dump([times.sync, times.negotiation, times.runnable], file)
        finally:
            os._exit(0)
    os.close(sender)
    with open(receiver) as file:
        found = json.load(file)
    os.waitpid(pid, 0)
    return Times(*found)


def _work(runtime_dir: Path, seconds: float) -> Times:
    times = Times()
    with (
        blocking.connect(runtime_dir) as allocator,
        allocator.allocate_shared_collection() as token,
    ):
        _negotiate(allocator)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            for _ in range(10):
                start = time.perf_counter()
                token.sync()
                times.sync.append(time.perf_counter() - start)
                time.sleep(0.001)
            waited, start = _run_delay(), time.perf_counter()
            _negotiate(allocator)
            times.negotiation.append(time.perf_counter() - start)
            times.runnable.append(_run_delay() - waited)
    return times


def _run_delay() -> float:
    """Return how long this process has waited for a core so far, in seconds."""
    _, nanoseconds, _ = Path("/proc/self/schedstat").read_text().split()
    return int(nanoseconds) / 1e9


def _negotiate(allocator: blocking.Allocator) -> None:
    constraints = sysmem.BufferCollectionConstraints(
        usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ_OFTEN | sysmem.CpuUsage.WRITE_OFTEN),
        min_buffer_count_for_camping=1,
        buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=4096),
    )
    with allocator.allocate_shared_collection() as root:
        [child] = root.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        with (
            allocator.bind_shared_collection(root) as one,
            allocator.bind_shared_collection(child) as other,
        ):
            for collection in (one, other):
                collection.set_constraints(constraints)
            for collection in (one, other):
                collection.wait_for_all_buffers_allocated().close()
                collection.release()


def measure(names: list[str], seconds: float) -> dict[str, Any]:
    """Return a row for each abuse."""
    cpus = sorted(os.sched_getaffinity(0))
    theirs, ours = cpus[0], cpus[-1]
    rows = {}
    for name in names:
        abuse = abuses.ABUSES[name]
        phases = {"quiet": Times(), "control": Times(), "abused": Times()}
        with daemon(ours) as served, daemon(theirs) as elsewhere:
            for _ in range(ROUNDS):
                _add(phases["quiet"], other_user(served.runtime_dir, ours, seconds))
                with _abused(abuse, elsewhere.runtime_dir, theirs):
                    _add(phases["control"], other_user(served.runtime_dir, ours, seconds))
                with _abused(abuse, served.runtime_dir, theirs):
                    _add(phases["abused"], other_user(served.runtime_dir, ours, seconds))
        rows[name] = {"what": abuse.__doc__, **_row(phases)}
        print(_line(rows[name]), file=sys.stderr)
    return rows


@contextlib.contextmanager
def _abused(abuse: Callable[[abuses.User], None], runtime_dir: Path, cpu: int) -> Iterator[None]:
    with abuser(abuse, runtime_dir, cpu):
        time.sleep(_HEAD_START_SECONDS)
        yield


def _add(total: Times, more: Times) -> None:
    total.sync += more.sync
    total.negotiation += more.negotiation
    total.runnable += more.runnable


def _row(phases: dict[str, Times]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    passes = True
    for what in ("sync", "negotiation"):
        row[what] = {}
        for phase, times in phases.items():
            values = sorted(getattr(times, what))
            row[what][phase] = {
                "p50_ms": _percentile(values, 0.5) * 1e3,
                "p99_ms": _percentile(values, 0.99) * 1e3,
                "samples": len(values),
            }
        if what == "negotiation":
            for phase, times in phases.items():
                pairs = zip(times.negotiation, times.runnable, strict=True)
                without = sorted(took - waited for took, waited in pairs)
                row[what][phase]["p99_without_core_ms"] = _percentile(without, 0.99) * 1e3
        quiet, abused = (row[what][phase]["p99_ms"] for phase in ("quiet", "abused"))
        row[what]["ratio"] = abused / quiet
        passes = passes and abused <= max(2 * quiet, quiet + 5)
    row["passes"] = passes
    return row


def _percentile(values: list[float], fraction: float) -> float:
    return values[int(len(values) * fraction)] if values else float("inf")


def _line(row: dict[str, Any]) -> str:
    cells = [f"{row['what']:50.50}"]
    for what in ("sync", "negotiation"):
        for phase in ("quiet", "control", "abused"):
            found = row[what][phase]
            cells.append(f"{found['p50_ms']:6.2f} /{found['p99_ms']:7.2f}")
            if "p99_without_core_ms" in found:
                cells[-1] += f" ({found['p99_without_core_ms']:.2f})"
    return " | ".join([*cells, "passes" if row["passes"] else "FAILS"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("abuses", nargs="*", default=[], help="all of them by default")
    parser.add_argument("--seconds", type=float, default=1.5, help="of each phase")
    parser.add_argument("--json", type=Path, help="write the rows there")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        parser.error("only root can be two other users")
    rows = measure(arguments.abuses or list(abuses.ABUSES), arguments.seconds)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n")
    return 0 if all(row["passes"] for row in rows.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
