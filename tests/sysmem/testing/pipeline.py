"""A camera pipeline of three processes and an initiator, correct and faulty, for tests that end them at every step."""

from __future__ import annotations

import contextlib
import signal
import socket
import time

import sysmem
from sysmem import blocking

CAMERA = sysmem.constraints("NV12 64x48", cpu="write often", hold=1)
READER = sysmem.constraints("NV12", cpu="read often", hold=1)
PATIENCE = 120.0


def initiator(runtime_dir: str, fds: list[int]) -> None:
    """Create a collection, pass a token to each process that listens, and watch the result."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(ConnectionError))
        links = [stack.enter_context(socket.socket(fileno=fd)) for fd in fds]
        allocator = stack.enter_context(blocking.connect(runtime_dir, name="initiator"))
        root = stack.enter_context(allocator.allocate_shared_collection())
        tokens = root.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * len(links))
        for link, token in zip(links, tokens, strict=True):
            with token, contextlib.suppress(ConnectionError):
                token.send(link)
        collection = stack.enter_context(allocator.bind_shared_collection(root))
        collection.set_constraints()
        with contextlib.suppress(sysmem.SysmemError):
            collection.wait_for_all_buffers_allocated(timeout=PATIENCE).close()
        collection.release()


def participant(name: str, runtime_dir: str, fault: str, fds: list[int]) -> None:
    """Take part with the token that arrives, use the buffers for a moment, and leave with Release."""
    with contextlib.suppress(sysmem.SysmemError, ConnectionError, EOFError):
        take_part(name, runtime_dir, fault, fds)
        return
    if fault == "ignores peer-closed":
        time.sleep(60)


def take_part(name: str, runtime_dir: str, fault: str, fds: list[int]) -> None:
    """Take part, or raise the error that prevents it."""
    table = CAMERA if name == "camera" else READER
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(socket.socket(fileno=fds[0]))
        link.settimeout(PATIENCE)
        token, _ = blocking.BufferCollectionToken.receive(link)
        allocator = stack.enter_context(blocking.connect(runtime_dir, name=name))
        collection = stack.enter_context(allocator.bind_shared_collection(token))
        if fault == "ignores peer-closed":
            # Otherwise the buffers might be allocated before the daemon knows that a process has died.
            collection.wait_closed(timeout=0.5)
        collection.set_constraints(table)
        info = stack.enter_context(collection.wait_for_all_buffers_allocated(timeout=PATIENCE))
        with info.buffers[0].map() as view:
            assert len(view) > 0
        if fault == "holds a buffer after release":
            collection.release()
            time.sleep(60)
        if fault == "waits without a timeout":
            signal.pause()
        collection.release()
