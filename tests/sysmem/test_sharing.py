"""Objects that multiprocessing passes on: memory is duplicated, nodes and events move."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver, resource_sharer, resource_tracker
from pathlib import Path
from typing import Any

import pytest

import sysmem
from sysmem import blocking
from sysmem_protocol.handles import eventpair

WAIT = 120
CONSTRAINTS = sysmem.BufferCollectionConstraints(
    usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ_OFTEN | sysmem.CpuUsage.WRITE_OFTEN),
    min_buffer_count=1,
    buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=4096),
)


@pytest.fixture(scope="module", autouse=True)
def machinery() -> Iterator[None]:
    """Start the processes and objects of multiprocessing that it starts on demand and leaves open."""
    resource_tracker.ensure_running()
    forkserver.ensure_running()
    os.close(resource_sharer.DupFd(0).detach())
    yield
    resource_sharer.stop(WAIT)


@pytest.fixture
def other_side(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module whose functions other processes run."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return __import__("other_side")


@pytest.fixture(params=["spawn", "forkserver"])
def context(request: pytest.FixtureRequest) -> Any:
    return multiprocessing.get_context(request.param)


@pytest.fixture
def info(allocator: blocking.Allocator) -> Iterator[sysmem.BufferCollectionInfo]:
    """Buffers."""
    with allocator.allocate_non_shared_collection() as collection:
        collection.set_constraints(CONSTRAINTS)
        with collection.wait_for_all_buffers_allocated(timeout=WAIT) as made:
            yield made


@contextlib.contextmanager
def running(process: Any) -> Iterator[None]:
    """Run a process, and kill it at the end."""
    process.start()
    try:
        yield
    finally:
        process.kill()
        process.join()
        process.close()


# --- copies ---------------------------------------------------------------------------------------------------------

COPIES: list[Callable[[Any], Any]] = [copy.copy, copy.deepcopy, pickle.dumps]
TABLE_COPIES = [*COPIES, dataclasses.asdict, dataclasses.astuple, dataclasses.replace]


@pytest.mark.parametrize("copied", COPIES)
@pytest.mark.parametrize(
    ("kind", "instead"),
    [
        (sysmem.Vmo, "duplicate()"),
        (sysmem.NodeRef, "duplicate()"),
        (blocking.EventPair, "detach() and from_fd()"),
        (sysmem.AsyncEventPair, "detach() and from_fd()"),
        (blocking.BufferCollectionToken, "send(), or detach() and from_fd()"),
        (sysmem.BufferCollectionTokenGroup, "detach() and from_fd()"),
        (blocking.Allocator, "detach() and from_fd()"),
    ],
)
def test_copies_are_refused_with_what_to_use(
    ends: tuple[int, Any], kind: Any, instead: str, copied: Callable[[Any], Any]
) -> None:
    with kind(ends[0]) as owner:
        with pytest.raises(TypeError, match="owns descriptors") as caught:
            copied(owner)
        assert instead in str(caught.value)
        assert not owner.closed


@pytest.mark.parametrize("copied", TABLE_COPIES)
def test_copies_of_tables_that_own_are_refused_too(copied: Callable[[Any], Any]) -> None:
    vmo = sysmem.Vmo(os.memfd_create("vmo", os.MFD_CLOEXEC))
    buffer = sysmem.VmoBuffer(vmo=vmo)
    with sysmem.BufferCollectionInfo(buffers=[buffer]) as info:
        for table in (buffer, info, sysmem.VmoInfo(weak_vmo=vmo)):
            with pytest.raises(TypeError, match=r"owns descriptors.*duplicate\(\)"):
                copied(table)


# --- other processes --------------------------------------------------------------------------------------------------


def test_memory_goes_as_duplicates(
    context: Any, other_side: Any, info: sysmem.BufferCollectionInfo, allocator: blocking.Allocator
) -> None:
    buffer = info.buffers[0]
    with allocator.allocate_shared_collection() as token, token.get_node_ref() as ref:
        process = context.Process(target=other_side.write, args=(buffer.vmo, buffer, info, ref))
        process.start()
        process.join()
        assert process.exitcode == 0
        process.close()
        assert not ref.closed
    with buffer.map() as view:
        assert view[0] == 3


def test_a_token_moves_to_a_process_that_is_started(
    context: Any, other_side: Any, allocator: blocking.Allocator
) -> None:
    ours, theirs = context.Pipe()
    with allocator.allocate_shared_collection() as token, ours, theirs:
        child = token.duplicate()
        process = context.Process(target=other_side.hold, args=(theirs, child))
        with allocator.bind_shared_collection(token) as collection:
            with running(process):
                assert child.closed
                assert ours.recv() == "BufferCollectionToken"
                assert not collection.wait_closed(0)
            assert collection.wait_closed(WAIT)


def test_a_process_that_can_not_be_started_takes_nothing(
    context: Any, allocator: blocking.Allocator
) -> None:
    with allocator.allocate_shared_collection() as token:
        process = context.Process(target=print, args=(token, threading.Lock()))
        with pytest.raises(TypeError, match="lock"):
            process.start()
        token.sync(timeout=WAIT)


def test_a_token_moves_through_a_pipe(other_side: Any, allocator: blocking.Allocator) -> None:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    with allocator.allocate_shared_collection() as token, ours, theirs:
        process = context.Process(target=other_side.hold, args=(theirs,))
        child = token.duplicate()
        with running(process), allocator.bind_shared_collection(token) as collection:
            ours.send(child)
            assert child.closed
            assert ours.recv() == "BufferCollectionToken"
            assert not collection.wait_closed(0)


def test_a_token_and_memory_go_through_a_queue_and_back(
    context: Any, other_side: Any, info: sysmem.BufferCollectionInfo, allocator: blocking.Allocator
) -> None:
    """A thread of the queue pickles them after `put()` has returned."""
    to, back = context.Queue(), context.Queue()
    process = context.Process(target=other_side.answer, args=(to, back))
    with allocator.allocate_shared_collection() as token, info.buffers[0].map() as view:
        child = token.duplicate()
        with allocator.bind_shared_collection(token) as collection:
            with running(process):
                to.put(info.buffers[0].vmo)
                to.put(child)
                with back.get(timeout=WAIT) as vmo, vmo.map() as other:
                    assert (other[0], view[0]) == (1, 1)
                with back.get(timeout=WAIT) as received:
                    assert type(received) is blocking.BufferCollectionToken
                    assert child.closed
                    received.sync(timeout=WAIT)
                    assert not collection.wait_closed(0)
            assert collection.wait_closed(WAIT)
    for queue in (to, back):
        queue.close()
        queue.join_thread()


def test_memory_goes_through_a_pipe_where_no_face_is_imported() -> None:
    program = """
import multiprocessing, os, sysmem
ours, theirs = multiprocessing.Pipe()
vmo = sysmem.Vmo(os.memfd_create("vmo", os.MFD_CLOEXEC))
ours.send(vmo)
theirs.recv().close()
vmo.close()
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_events_and_async_nodes_move_in_a_queue() -> None:
    near, far = eventpair()
    queue = multiprocessing.get_context("spawn").SimpleQueue()
    with far:
        event = sysmem.AsyncEventPair.from_fd(near.take())
        queue.put(event)
        assert event.closed
        with queue.get() as received:
            assert isinstance(received, sysmem.AsyncEventPair)
            assert not received.is_closed()
            far.close()
            assert received.is_closed()
    queue.close()


def test_a_pool_gets_buffers_and_gives_memory_back(
    context: Any, other_side: Any, info: sysmem.BufferCollectionInfo
) -> None:
    with info.buffers[0].map() as view:
        view[0] = 7
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        byte, vmo = pool.submit(other_side.first_byte, info).result(WAIT)
        assert byte == 7
        with vmo, vmo.map() as view:
            assert view[0] == 7
