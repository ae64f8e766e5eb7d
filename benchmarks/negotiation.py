"""A whole negotiation up to everyone having the buffers mapped, beside two floors measured in turn with it.

*floor* is a daemon without any logic (:func:`floors.negotiation_floor`), spoken to by the same clients: the ratio of
both servers' CPU time is what the daemon's rules cost. *memfds* passes as many raw memfds from process to process.
Participants are existing processes. The time runs from the first message until the last participant reports
"mapped".
"""

from __future__ import annotations

import mmap
import os
import socket
import statistics
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from floors import negotiation_floor
from measure import settled_cpu_seconds
from participants import BUFFER_BYTES, BUFFERS, DONE, expect, hand_out, needs, participants

from sysmem import blocking

#: The number of rounds for each number of participants.
ROUNDS = {2: 15, 4: 15, 16: 10, 64: 5}

_SYSMEM = b"s"
_FLOOR = b"f"
_MEMFDS = b"m"


def _participate(runtime_dirs: dict[bytes, Path], control: socket.socket) -> None:
    with ExitStack() as stack:
        allocators = {
            kind: stack.enter_context(blocking.connect(runtime_dir))
            for kind, runtime_dir in runtime_dirs.items()
        }
        control.send(DONE)
        while True:
            kind, fds, _, _ = socket.recv_fds(control, 1, BUFFERS)
            if not kind:
                return
            if kind == _MEMFDS:
                for fd in fds:
                    with mmap.mmap(fd, BUFFER_BYTES):
                        pass
                    os.close(fd)
                control.send(DONE)
                continue
            token = blocking.BufferCollectionToken.from_fd(fds[0])
            with allocators[kind].bind_shared_collection(token) as collection:
                collection.set_constraints(needs())
                with collection.wait_for_all_buffers_allocated() as info:
                    for buffer in info.buffers or ():
                        with buffer.map():
                            pass
                control.send(DONE)
                control.recv(1)  # everyone has them
                collection.release()


def _negotiate(kind: bytes, allocator: blocking.Allocator, controls: list[socket.socket]) -> float:
    start = time.perf_counter()
    hand_out(kind, allocator, controls)
    expect(controls)
    elapsed = time.perf_counter() - start
    for control in controls:
        control.send(DONE)
    return elapsed


def _pass_memfds(controls: list[socket.socket]) -> float:
    start = time.perf_counter()
    fds = []
    for index in range(BUFFERS):
        fds.append(os.memfd_create(f"floor:{index}", os.MFD_CLOEXEC))
        os.truncate(fds[-1], BUFFER_BYTES)
    for control in controls:
        socket.send_fds(control, [_MEMFDS], fds)
    expect(controls)
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
        controls = stack.enter_context(participants(partial(_participate, runtime_dirs), count))
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
