"""Checks of the client together with others: negotiations with Python participants at a real daemon."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from sysmem_protocol.handles import Handle

from ... import (
    BufferCollectionConstraints,
    BufferCollectionInfo,
    BufferMemoryConstraints,
    BufferUsage,
    CpuUsage,
    Heap,
    Rights,
)
from ...blocking import Allocator, BufferCollection, BufferCollectionToken, connect
from .._sysmemd import Sysmemd, sysmemd
from ._bench import Bench, Check, Flaw, check
from ._requests import give, received

CHECKS: Final[list[Check]] = []


def _constraints(size: int, heap: str | None = None) -> BufferCollectionConstraints:
    return BufferCollectionConstraints(
        usage=BufferUsage(cpu=CpuUsage.READ | CpuUsage.WRITE),
        min_buffer_count_for_camping=1,
        buffer_memory_constraints=BufferMemoryConstraints(
            min_size_bytes=size,
            permitted_heaps=None if heap is None else [Heap(heap_type=heap, id=0)],
        ),
    )


@contextlib.contextmanager
def _daemon(bench: Bench) -> Iterator[Allocator]:
    """Run a daemon, with the agent connected as `a`. Yield a Python participant's connection."""
    with sysmemd() as daemon:
        agent = bench.start(daemon.runtime_dir)
        agent.do("connect a")
        with connect(daemon.runtime_dir, name="conformance") as allocator:
            yield allocator
        _check(bench, daemon)


def _check(bench: Bench, daemon: Sysmemd) -> None:
    """End the agent, and check that the daemon then holds nothing."""
    bench.finish()
    try:
        daemon.check_for_leaks()
    except AssertionError as error:
        raise Flaw(str(error)) from None


def _agree(
    bench: Bench, collection: BufferCollection, heap: str | None = None
) -> BufferCollectionInfo:
    """Make both set constraints and get buffers. The agent's are those of its collection `c`."""
    bench.agent.do("constrain c 10 8192 1")
    collection.set_constraints(_constraints(4096, heap))
    found = collection.wait_for_all_buffers_allocated(timeout=bench.patience)
    bench.agent.tell("wait c")
    bench.agent.answered("wait c", "ok 2 8192")
    return found


@check(CHECKS)
def negotiates_as_initiator(bench: Bench) -> None:
    """It creates a collection at a real daemon and gives a token to a Python participant. Both share the buffers."""
    with _daemon(bench) as allocator:
        bench.agent.do("shared a t")
        bench.agent.do("duplicate_sync t 2147483648 u")
        bench.agent.do("give u")
        bench.agent.do("bind a t c")
        token = BufferCollectionToken.from_fd(received(bench).take())
        with (
            allocator.bind_shared_collection(token) as collection,
            _agree(bench, collection) as info,
        ):
            _share(bench, info)
            bench.agent.do("release c")
            collection.release()


@check(CHECKS)
def negotiates_as_a_participant(bench: Bench) -> None:
    """It turns in a token that a Python participant gave it. Both share the buffers."""
    with _daemon(bench) as allocator:
        collection = _given(bench, allocator)
        with collection, _agree(bench, collection) as info:
            _share(bench, info)
            bench.agent.do("release c")
            collection.release()


@check(CHECKS)
def learns_of_a_refusal(bench: Bench) -> None:
    """If the participants do not agree, it gets CONSTRAINTS_INTERSECTION_EMPTY, and then the end of the channel."""
    with _daemon(bench) as allocator, _given(bench, allocator) as collection:
        bench.agent.do("constrain c 10 8192 1")
        bench.agent.do("start w wait c")
        bench.agent.do("sync c")
        collection.set_constraints(_constraints(4096, "no such heap"))
        bench.agent.tell("finish w")
        bench.agent.answered("finish w", "error 6")
        bench.agent.do("wait_closed c")
        bench.agent.do("close c")


@check(CHECKS)
def notices_a_death(bench: Bench) -> None:
    """When another participant closes without Release, the client's channel closes, and it closes its buffers."""
    with _daemon(bench) as allocator:
        collection = _given(bench, allocator)
        with collection, _agree(bench, collection):
            collection.close()
            bench.agent.do("wait_closed c")
            bench.agent.do("close c")


@check(CHECKS)
def is_noticed_when_it_dies(bench: Bench) -> None:
    """When it is killed, the other participants' channels close."""
    with sysmemd() as daemon, connect(daemon.runtime_dir) as allocator:
        bench.start(daemon.runtime_dir).do("connect a")
        collection = _given(bench, allocator)
        with collection, _agree(bench, collection):
            bench.agent.process.kill()
            if not collection.wait_closed(bench.patience):
                raise Flaw("the killed agent's channel is still open in some process")
        bench.forget()


def _given(bench: Bench, allocator: Allocator) -> BufferCollection:
    """Give the agent a token of a new collection, which it turns in as `c`. Return another participant's collection."""
    token = allocator.allocate_shared_collection()
    [other] = token.duplicate_sync([Rights.SAME_RIGHTS])
    give(bench, Handle(other.detach()))
    bench.agent.do("receive t")
    bench.agent.do("bind a t c")
    bench.agent.do("sync c")
    return allocator.bind_shared_collection(token)


def _share(bench: Bench, info: BufferCollectionInfo) -> None:
    """Check that writes on each side can be read on the other."""
    bench.agent.do(f"write c 0 {b'from the agent'.hex()}")
    with info.buffers[0].map() as view:
        if bytes(view[:14]) != b"from the agent":
            raise Flaw(
                f"the agent wrote 'from the agent', the other one reads {bytes(view[:14])!r}"
            )
    with info.buffers[1].map() as view:
        view[:5] = b"hello"
    bench.agent.tell("read c 1 5")
    bench.agent.answered("read c 1 5", f"ok {b'hello'.hex()}")
