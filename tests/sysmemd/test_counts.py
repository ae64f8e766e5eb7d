"""The daemon's cost of one more participant, buffer or node, as counts that do not depend on the machine's load.

Each bound is today's cost and a little room. Lower it when the cost falls. docs/performance.md has the goals.
"""

from __future__ import annotations

import mmap
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest
from tests.faults.test_faults import needs_strace

import sysmem
from sysmem import blocking
from sysmem.testing import Sysmemd

pytestmark = pytest.mark.untraced  # a tracer makes system calls of its own

PATIENCE = 120.0
#: The number of further participants, buffers or nodes that are created to measure the cost of one.
MORE = 8
NODES = 1000
FRAMES = 4 * 60
ROUND_TRIPS = 200
#: A daemon that uses no CPU time for this long has finished its work.
SETTLED = 0.05
#: A check for waiting clients that found none, as strace shows it.
_IN_VAIN = re.compile(r" epoll_wait\(.*, 0\) += 0")


def cpu_seconds(pid: int) -> int:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def settle(pid: int) -> None:
    used = -1
    while used != (used := cpu_seconds(pid)):
        time.sleep(SETTLED)


def negotiate(allocators: list[blocking.Allocator], buffers: int) -> None:
    """Hold one negotiation with a participant for each further connection."""
    constraints = sysmem.BufferCollectionConstraints(
        usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ_OFTEN | sysmem.CpuUsage.WRITE_OFTEN),
        min_buffer_count=buffers,
        max_buffer_count=buffers,
        buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=4096),
    )
    first, *others = allocators
    with first.allocate_shared_collection() as root:
        children = root.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * len(others))
        root.release()
    collections = []
    for allocator, child in zip(others, children, strict=True):
        collections.append(allocator.bind_shared_collection(child))
        collections[-1].set_constraints(constraints)
    for collection in collections:
        collection.wait_for_all_buffers_allocated().close()
        collection.release()


def counted(
    runtime_dir: Path,
    pid: int,
    count: Callable[[Callable[[], None]], int],
    participants: int,
    buffers: int,
) -> int:
    with ExitStack() as stack:
        allocators = [
            stack.enter_context(blocking.connect(runtime_dir)) for _ in range(participants + 1)
        ]
        negotiate(allocators, buffers)  # the first negotiation loads modules
        settle(pid)

        def work() -> None:
            negotiate(allocators, buffers)
            settle(pid)

        return count(work)


@contextmanager
def daemon_that_counts(runtime_dir: Path, number: Path | str = "") -> Iterator[int]:
    """Run a daemon with `counting.py`. Return its process id."""
    program = [sys.executable, "-m", "tests.sysmemd.counting", str(number)]
    command = [*program, "--runtime-dir", str(runtime_dir)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as daemon:
        try:
            with blocking.connect(runtime_dir, wait=PATIENCE):
                yield daemon.pid
        finally:
            daemon.terminate()


# --- system calls ---------------------------------------------------------------------------------------------------


@needs_strace
@pytest.mark.parametrize(
    ("participants", "buffers", "most"),
    [pytest.param(MORE, 0, 42, id="participant"), pytest.param(0, MORE, 17, id="buffer")],
)
def test_system_calls(tmp_path: Path, participants: int, buffers: int, most: int) -> None:
    runtime_dir = tmp_path / "run"
    with daemon_that_counts(runtime_dir) as pid:
        count = partial(traced_calls, pid, tmp_path / "trace")
        few = counted(runtime_dir, pid, count, 1, 1)
        many = counted(runtime_dir, pid, count, 1 + participants, 1 + buffers)
    assert (many - few) / MORE <= most


@needs_strace
def test_system_calls_of_a_round_trip(tmp_path: Path) -> None:
    """One call each to wait, to receive and to send."""
    runtime_dir = tmp_path / "run"
    with (
        daemon_that_counts(runtime_dir) as pid,
        blocking.connect(runtime_dir) as allocator,
        allocator.allocate_shared_collection() as token,
    ):
        token.sync()
        settle(pid)
        calls = traced_calls(pid, tmp_path / "trace", partial(round_trips, token))
    assert calls / ROUND_TRIPS <= 3.5


def traced_calls(pid: int, trace: Path, work: Callable[[], None]) -> int:
    """Return the number of system calls of a process within the block."""
    command = ["strace", "-f", "-qq", "-o", str(trace), "-p", str(pid)]
    with subprocess.Popen(command) as tracer:
        while not all(map(is_traced, Path(f"/proc/{pid}/task").iterdir())):
            assert tracer.poll() is None
            time.sleep(0.01)
        work()
        tracer.send_signal(signal.SIGINT)
    # At the end of a slice, the daemon checks whether other clients wait. The number of checks depends on how slow the
    # tracer is.
    lines = [line for line in trace.read_text().splitlines() if not _IN_VAIN.search(line)]
    calls = Counter(re.findall(r"^\d+ +(\w+)\(", "\n".join(lines), re.MULTILINE))
    print(calls.total(), calls)  # for readers who find a bound too low
    return calls.total()


def round_trips(token: blocking.BufferCollectionToken) -> None:
    for _ in range(ROUND_TRIPS):
        token.sync()


def is_traced(task: Path) -> bool:
    return "\nTracerPid:\t0\n" not in (task / "status").read_text()


# --- Python calls ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("participants", "buffers", "most"),
    [pytest.param(MORE, 0, 700, id="participant"), pytest.param(0, MORE, 175, id="buffer")],
)
def test_python_calls(tmp_path: Path, participants: int, buffers: int, most: int) -> None:
    runtime_dir, number = tmp_path / "run", tmp_path / "number"
    with daemon_that_counts(runtime_dir, number) as pid:

        def total() -> int:
            number.unlink(missing_ok=True)
            os.kill(pid, signal.SIGUSR1)
            while not number.exists():
                time.sleep(0.01)
            return int(number.read_text())

        def count(work: Callable[[], None]) -> int:
            before = total()
            work()
            return total() - before

        with (
            blocking.connect(runtime_dir) as allocator,
            allocator.allocate_shared_collection() as token,
        ):
            token.sync()
            each = count(partial(round_trips, token)) / ROUND_TRIPS
        few = counted(runtime_dir, pid, count, 1, 1)
        many = counted(runtime_dir, pid, count, 1 + participants, 1 + buffers)
    print(each, (many - few) / MORE)
    assert each <= 34
    assert (many - few) / MORE <= most


# --- nothing ------------------------------------------------------------------------------------------------------


@pytest.fixture
def kept(sysmemd: Sysmemd) -> Iterator[list[blocking.BufferCollectionToken]]:
    """Keep many nodes that do nothing within the block."""
    with blocking.connect(sysmemd.runtime_dir) as allocator, ExitStack() as stack:
        root = stack.enter_context(allocator.allocate_shared_collection())
        tokens: list[blocking.BufferCollectionToken] = []
        while len(tokens) < NODES:
            tokens += root.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 50)
        for token in tokens:
            stack.callback(token.close)
        yield tokens


@pytest.mark.usefixtures("kept")
def test_nothing_happens_while_nodes_are_idle_and_frames_are_passed_around(
    sysmemd: Sysmemd,
) -> None:
    with (
        blocking.connect(sysmemd.runtime_dir) as allocator,
        allocator.allocate_non_shared_collection() as collection,
    ):
        collection.set_constraints(
            sysmem.BufferCollectionConstraints(
                usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ_OFTEN),
                min_buffer_count=4,
                buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=4096),
            )
        )
        with collection.wait_for_all_buffers_allocated() as buffers:
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with near, far:
                settle(sysmemd.pid)
                used, woken = cpu_seconds(sysmemd.pid), switches(sysmemd.pid)
                for number in range(FRAMES):
                    vmo = buffers.buffers[number % 4].vmo
                    assert vmo is not None
                    socket.send_fds(near, [b"frame"], [vmo.fileno()])
                    _, [fd], _, _ = socket.recv_fds(far, 16, 1)
                    with mmap.mmap(fd, 4096, prot=mmap.PROT_READ) as frame:
                        assert len(frame) == 4096
                    os.close(fd)
                settle(sysmemd.pid)
                assert (cpu_seconds(sysmemd.pid), switches(sysmemd.pid)) == (used, woken)


def switches(pid: int) -> int:
    """Return how many times a process has gone to sleep."""
    status = Path(f"/proc/{pid}/status").read_text()
    [number] = re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
    return int(number)


# --- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    sys.flags.dev_mode, reason="in development mode the allocator adds bytes to each object"
)
def test_bytes_a_node(sysmemd: Sysmemd) -> None:
    with blocking.connect(sysmemd.runtime_dir) as allocator:
        root = allocator.allocate_shared_collection()
        tokens = root.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 64)
        before = resident_bytes(sysmemd.pid)
        more: list[blocking.BufferCollectionToken] = []
        while len(more) < NODES:
            more += root.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 50)
        each = (resident_bytes(sysmemd.pid) - before) / NODES
        for token in (root, *tokens, *more):
            token.close()
    assert each <= 5 * 1024


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize()
