"""A whole negotiation up to everyone having the buffers mapped, as a ratio to passing as many raw memfds.

Participants are processes that exist already; what is timed begins with the first message and ends with the last
"mapped".
"""

from __future__ import annotations

import mmap
import os
import signal
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sysmem
from sysmem import blocking

BUFFERS = 4
BUFFER_BYTES = 1024 * 1024
ROUNDS = 15
PARTICIPANTS = (2, 4, 16)

_NEGOTIATE = b"n"
_MEMFDS = b"m"
_MAPPED = b"."


def _constraints() -> sysmem.BufferCollectionConstraints:
    return sysmem.BufferCollectionConstraints(
        usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ_OFTEN | sysmem.CpuUsage.WRITE_OFTEN),
        min_buffer_count=BUFFERS,
        max_buffer_count=BUFFERS,
        buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=BUFFER_BYTES),
    )


def _participate(control: socket.socket, runtime_dir: Path) -> None:
    with blocking.connect(runtime_dir) as allocator:
        while True:
            kind, fds, _, _ = socket.recv_fds(control, 1, BUFFERS)
            if kind == _MEMFDS:
                for fd in fds:
                    with mmap.mmap(fd, BUFFER_BYTES):
                        pass
                    os.close(fd)
                control.send(_MAPPED)
            elif kind == _NEGOTIATE:
                token = blocking.BufferCollectionToken.from_fd(fds[0])
                with allocator.bind_shared_collection(token) as collection:
                    collection.set_constraints(_constraints())
                    with collection.wait_for_all_buffers_allocated() as info:
                        for buffer in info.buffers or ():
                            with buffer.map():
                                pass
                    control.send(_MAPPED)
                    control.recv(1)  # everyone has them
                    collection.release()
            else:
                return


@contextmanager
def _participants(count: int, runtime_dir: Path) -> Iterator[list[socket.socket]]:
    controls, pids = [], []
    for _ in range(count):
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                near.close()
                _participate(far, runtime_dir)
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


def _negotiate(allocator: blocking.Allocator, controls: list[socket.socket]) -> float:
    start = time.perf_counter()
    with allocator.allocate_shared_collection() as token:
        children = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * len(controls))
        for child, control in zip(children, controls, strict=True):
            socket.send_fds(control, [_NEGOTIATE], [child.fileno()])
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


def measure(runtime_dir: Path) -> dict[str, Any]:
    """Milliseconds for each number of participants, medians; and the ratio to the floor."""
    results: dict[str, Any] = {}
    for count in PARTICIPANTS:
        with (
            _participants(count, runtime_dir) as controls,
            blocking.connect(runtime_dir) as allocator,
        ):
            _negotiate(allocator, controls)
            _pass_memfds(controls)
            negotiations, floors = [], []
            for _ in range(ROUNDS):
                negotiations.append(_negotiate(allocator, controls))
                floors.append(_pass_memfds(controls))
            negotiation, floor = statistics.median(negotiations), statistics.median(floors)
        results[str(count)] = {
            "negotiation_ms": negotiation * 1e3,
            "memfds_ms": floor * 1e3,
            "ratio": negotiation / floor,
        }
    return results
