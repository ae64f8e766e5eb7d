"""A whole negotiation up to everyone having the buffers mapped, beside two floors measured in turn with it.

*floor* is a daemon without any logic (:func:`floors.negotiation_floor`), spoken to by the same clients: the ratio of
both servers' CPU time is what the daemon's rules cost. *memfds* passes as many raw memfds from process to process.
Participants are existing processes. The time runs from the first message until the last participant reports
"mapped".
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from floors import negotiation_floor
from measure import settled_cpu_seconds

import sysmem
from sysmem import blocking

BUFFERS = 4
BUFFER_BYTES = 1024 * 1024
#: The number of rounds for each number of participants.
ROUNDS = {2: 15, 4: 15, 16: 10, 64: 5}

_SYSMEM = b"s"
_FLOOR = b"f"
_MEMFDS = b"m"
_MAPPED = b"."


def _constraints() -> sysmem.BufferCollectionConstraints:
    return sysmem.BufferCollectionConstraints(
        usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ_OFTEN | sysmem.CpuUsage.WRITE_OFTEN),
        min_buffer_count=BUFFERS,
        max_buffer_count=BUFFERS,
        buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=BUFFER_BYTES),
    )


def _participate(control: socket.socket, runtime_dirs: dict[bytes, Path]) -> None:
    with ExitStack() as stack:
        allocators = {
            kind: stack.enter_context(blocking.connect(runtime_dir))
            for kind, runtime_dir in runtime_dirs.items()
        }
        while True:
            kind, fds, _, _ = socket.recv_fds(control, 1, BUFFERS)
            if not kind:
                return
            if kind == _MEMFDS:
                for fd in fds:
                    with mmap.mmap(fd, BUFFER_BYTES):
                        pass
                    os.close(fd)
                control.send(_MAPPED)
                continue
            token = blocking.BufferCollectionToken.from_fd(fds[0])
            with allocators[kind].bind_shared_collection(token) as collection:
                collection.set_constraints(_constraints())
                with collection.wait_for_all_buffers_allocated() as info:
                    for buffer in info.buffers or ():
                        with buffer.map():
                            pass
                control.send(_MAPPED)
                control.recv(1)  # everyone has them
                collection.release()


@contextmanager
def _participants(count: int, runtime_dirs: dict[bytes, Path]) -> Iterator[list[socket.socket]]:
    controls, pids = [], []
    for _ in range(count):
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                near.close()
                _participate(far, runtime_dirs)
                status = 0
            finally:
                os._exit(status)
        far.close()
        controls.append(near)
        pids.append(pid)
    try:
        yield controls
    finally:
        for control in controls:
            control.close()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _expect(controls: list[socket.socket]) -> None:
    for control in controls:
        if control.recv(1) != _MAPPED:
            raise RuntimeError("a participant failed")


def _negotiate(kind: bytes, allocator: blocking.Allocator, controls: list[socket.socket]) -> float:
    start = time.perf_counter()
    with allocator.allocate_shared_collection() as token:
        children = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * len(controls))
        for child, control in zip(children, controls, strict=True):
            socket.send_fds(control, [kind], [child.fileno()])
            child.close()
        token.release()
    _expect(controls)
    elapsed = time.perf_counter() - start
    for control in controls:
        control.send(_MAPPED)
    return elapsed


def _pass_memfds(controls: list[socket.socket]) -> float:
    start = time.perf_counter()
    fds = []
    for index in range(BUFFERS):
        fds.append(os.memfd_create(f"floor:{index}", os.MFD_CLOEXEC))
        os.truncate(fds[-1], BUFFER_BYTES)
    for control in controls:
        socket.send_fds(control, [_MEMFDS], fds)
    _expect(controls)
    elapsed = time.perf_counter() - start
    for fd in fds:
        os.close(fd)
    return elapsed


def measure(runtime_dir: Path, daemon: int) -> dict[str, Any]:
    """Return median ms for each number of participants, the daemon's CPU time, and ratios of medians."""
    with (
        tempfile.TemporaryDirectory() as floor_dir,
        negotiation_floor(Path(floor_dir), buffers=BUFFERS, size=BUFFER_BYTES) as floor,
    ):
        runtime_dirs = {_SYSMEM: runtime_dir, _FLOOR: Path(floor_dir)}
        servers = {_SYSMEM: daemon, _FLOOR: floor}
        return {str(count): _measure(count, runtime_dirs, servers) for count in ROUNDS}


def _measure(
    count: int, runtime_dirs: dict[bytes, Path], servers: dict[bytes, int]
) -> dict[str, float]:
    walls: dict[bytes, list[float]] = {_SYSMEM: [], _FLOOR: []}
    cpus: dict[bytes, list[float]] = {_SYSMEM: [], _FLOOR: []}
    memfds = []
    with ExitStack() as stack:
        controls = stack.enter_context(_participants(count, runtime_dirs))
        allocators = {
            kind: stack.enter_context(blocking.connect(where))
            for kind, where in runtime_dirs.items()
        }
        for kind, allocator in allocators.items():
            _negotiate(kind, allocator, controls)
        for _ in range(ROUNDS[count]):
            for kind, allocator in allocators.items():
                before = settled_cpu_seconds(servers[kind])
                walls[kind].append(_negotiate(kind, allocator, controls))
                cpus[kind].append(settled_cpu_seconds(servers[kind]) - before)
            memfds.append(_pass_memfds(controls))
    wall, floor_wall = (statistics.median(walls[kind]) for kind in (_SYSMEM, _FLOOR))
    cpu, floor_cpu = (statistics.median(cpus[kind]) for kind in (_SYSMEM, _FLOOR))
    return {
        "negotiation_ms": wall * 1e3,
        "floor_ms": floor_wall * 1e3,
        "memfds_ms": statistics.median(memfds) * 1e3,
        "daemon_cpu_ms": cpu * 1e3,
        "floor_cpu_ms": floor_cpu * 1e3,
        "daemon_cpu_us_a_participant": cpu / count * 1e6,
        "cpu_ratio_to_floor": cpu / floor_cpu,
        "ratio_to_floor": wall / floor_wall,
        "ratio_to_memfds": wall / statistics.median(memfds),
    }
