"""The negotiation that is measured, four buffers of one MiB, and the processes that take part in it."""

from __future__ import annotations

import os
import signal
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import sysmem
from sysmem import blocking

BUFFERS = 4
BUFFER_BYTES = 1024 * 1024

#: What a process sends when it is ready, and when it has done what it was told to.
DONE = b"."


def needs() -> sysmem.BufferCollectionConstraints:
    """Return the constraints of each participant."""
    return sysmem.BufferCollectionConstraints(
        usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ_OFTEN | sysmem.CpuUsage.WRITE_OFTEN),
        min_buffer_count=BUFFERS,
        max_buffer_count=BUFFERS,
        buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=BUFFER_BYTES),
    )


@contextmanager
def participants(
    play: Callable[[socket.socket], None], count: int
) -> Iterator[list[socket.socket]]:
    """Fork processes that call `play` with one end of a socket, and yield the other ends once all are ready.

    The processes are killed after the block.
    """
    controls: list[socket.socket] = []
    pids: list[int] = []
    try:
        for _ in range(count):
            near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            pid = os.fork()
            if pid == 0:
                try:
                    near.close()
                    play(far)
                except BaseException:
                    traceback.print_exc()
                finally:
                    os._exit(1)
            far.close()
            controls.append(near)
            pids.append(pid)
            expect([near])
        yield controls
    finally:
        for control, pid in zip(controls, pids, strict=True):
            control.close()
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def expect(controls: list[socket.socket]) -> None:
    """Wait until each process has done what it was told to."""
    for control in controls:
        if control.recv(1) != DONE:
            raise RuntimeError("a participant failed")


def hand_out(kind: bytes, allocator: blocking.Allocator, controls: list[socket.socket]) -> None:
    """Send `kind` and a token to each process, all of one new collection."""
    with allocator.allocate_shared_collection() as root:
        children = root.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * len(controls))
        for child, control in zip(children, controls, strict=True):
            socket.send_fds(control, [kind], [child.fileno()])
            child.close()
        root.release()
