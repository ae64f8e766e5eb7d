"""The async face on a channel whose other end the test controls, under trio and under asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import trio

import sysmem
from sysmem_protocol import sysmem2 as m
from sysmem_protocol.message import Message

Ends = tuple[int, Any]  # the client end's descriptor, and the peer of conftest.py
Run = Callable[[Callable[[], Awaitable[None]]], None]
Node = m.Node


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an async function in either kind of event loop."""
    return lambda test: anyio.run(test, backend=request.param)


def test_calls_are_answered(run: Run, ends: Ends) -> None:
    async def test() -> None:
        async with sysmem.BufferCollectionToken.from_fd(ends[0]) as token:
            for _ in range(3):
                await token.sync()
            await token.set_verbose_logging()

    ends[1].echo(3)
    run(test)
    assert ends[1].receive().ordinal == Node.set_verbose_logging.ordinal


@pytest.mark.parametrize("start", [trio.run, lambda test: asyncio.run(test())])
def test_the_event_loop_is_the_program_s_own(ends: Ends, start: Any) -> None:
    async def test() -> None:
        with sysmem.BufferCollectionToken.from_fd(ends[0]) as token:
            await token.sync()
            with pytest.raises(TimeoutError):
                await token.sync(timeout=0.01)
            assert await token.wait_closed(0) is False

    ends[1].echo(1)
    start(test)


def test_a_task_cancelled_by_asyncio_leaves_the_channel_usable(ends: Ends) -> None:
    fd, peer = ends

    async def test() -> None:
        with sysmem.BufferCollectionToken.from_fd(fd) as token:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(token.sync(), 0.01)
            task = asyncio.create_task(token.sync())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            peer.echo(3)
            await asyncio.gather(token.sync(), token.wait_closed(0))

    asyncio.run(test())


def test_answers_out_of_order_find_their_tasks(run: Run, ends: Ends) -> None:
    fd, peer = ends
    results: list[int] = []

    def play() -> None:
        requests = [peer.receive() for _ in range(8)]
        for request in reversed(requests):
            answer = m.NodeGetBufferCollectionIdResponse(buffer_collection_id=request.txid)
            peer.answer(request, Node.get_buffer_collection_id, answer)

    async def test() -> None:
        async def ask() -> None:
            results.append(await token.get_buffer_collection_id())

        with sysmem.BufferCollectionToken.from_fd(fd) as token:
            async with anyio.create_task_group() as group:
                for _ in range(8):
                    group.start_soon(ask)

    peer.run(play)
    run(test)
    assert sorted(results) == list(range(1, 9))


def test_a_sync_is_answered_while_a_wait_is_pending(run: Run, ends: Ends) -> None:
    fd, peer = ends

    def play() -> None:
        wait = peer.receive()
        for _ in range(5):
            peer.send(peer.receive())
        peer.answer(wait, m.BufferCollection.wait_for_all_buffers_allocated, sysmem.Error.NO_MEMORY)

    async def test() -> None:
        async def wait() -> None:
            with pytest.raises(sysmem.SysmemError, match="NO_MEMORY"):
                await collection.wait_for_all_buffers_allocated()

        with sysmem.BufferCollection.from_fd(fd) as collection:
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                for _ in range(5):
                    await collection.sync()

    peer.run(play)
    run(test)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_a_timeout_leaves_the_channel_usable(
    run: Run, ends: Ends, witness: Any, timeout: float
) -> None:
    fd, peer = ends

    async def test() -> None:
        with sysmem.BufferCollectionToken.from_fd(fd) as token:
            with pytest.raises(TimeoutError, match="get_node_ref"):
                await token.get_node_ref(timeout=timeout)
            answer = m.NodeGetNodeRefResponse(node_ref=witness.handle)
            peer.answer(peer.receive(), Node.get_node_ref, answer)
            peer.echo(1)
            await token.sync(timeout=10)
            assert witness.gone()

    run(test)


def test_a_cancellation_leaves_the_channel_usable(run: Run, ends: Ends, witness: Any) -> None:
    fd, peer = ends

    async def test() -> None:
        with sysmem.BufferCollectionToken.from_fd(fd) as token:
            async with anyio.create_task_group() as group:
                group.start_soon(token.get_node_ref)
                await anyio.wait_all_tasks_blocked()
                group.start_soon(token.wait_closed)
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
            answer = m.NodeGetNodeRefResponse(node_ref=witness.handle)
            peer.answer(peer.receive(), Node.get_node_ref, answer)
            peer.echo(1)
            await token.sync(timeout=10)
            assert witness.gone()

    run(test)


def test_a_cancelled_leader_leaves_its_turn_to_others(run: Run, ends: Ends) -> None:
    fd, peer = ends

    async def test() -> None:
        with sysmem.BufferCollectionToken.from_fd(fd) as token:
            async with anyio.create_task_group() as outer:
                async with anyio.create_task_group() as inner:
                    inner.start_soon(token.sync)
                    await anyio.wait_all_tasks_blocked()
                    outer.start_soon(token.sync)
                    await anyio.wait_all_tasks_blocked()
                    inner.cancel_scope.cancel()
                await anyio.wait_all_tasks_blocked()
                peer.receive()
                peer.send(peer.receive())

    run(test)


def test_a_pending_call_and_later_ones_see_the_peer_close(run: Run, ends: Ends) -> None:
    fd, peer = ends

    async def test() -> None:
        async def wait() -> None:
            with pytest.raises(sysmem.PeerClosedError):
                await token.sync()

        async with sysmem.BufferCollectionToken.from_fd(fd) as token:
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                peer.close()
            with pytest.raises(sysmem.PeerClosedError):
                await token.set_dispensable()
            with pytest.raises(sysmem.PeerClosedError):
                await token.duplicate()
            with pytest.raises(sysmem.PeerClosedError):
                await token.release()
            assert token.closed

    run(test)


def test_wait_closed_tells_whether_it_is(run: Run, ends: Ends) -> None:
    fd, peer = ends

    async def test() -> None:
        with sysmem.BufferCollectionToken.from_fd(fd) as token:
            assert await token.wait_closed(0) is False
            assert await token.wait_closed(timeout=0.01) is False
            peer.close()
            assert await token.wait_closed(0) is True
            assert await token.wait_closed() is True

    run(test)


def test_close_wakes_those_who_wait(run: Run, ends: Ends) -> None:
    fd, peer = ends

    async def test() -> None:
        async def wait(call: Callable[[], Awaitable[Any]]) -> None:
            with pytest.raises(sysmem.HandleClosedError):
                await call()

        token = sysmem.BufferCollectionToken.from_fd(fd)
        async with anyio.create_task_group() as group:
            for call in (token.sync, token.wait_closed, token.sync):
                group.start_soon(wait, call)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="waits"):
                token.detach()
            token.close()
            token.close()
        peer.receive()
        peer.receive()
        with pytest.raises(ConnectionError):
            peer.receive()

    run(test)


def test_a_number_used_anew_after_close_is_no_trap(run: Run, ends: Ends) -> None:
    """An object that closes in one task and another that opens in the next step may have the same descriptor number."""
    fd, peer = ends

    async def test() -> None:
        async def wait() -> None:
            with contextlib.suppress(sysmem.HandleClosedError):
                await token.sync()

        token = sysmem.BufferCollectionToken.from_fd(fd)
        with await token.duplicate() as other:
            server_end = peer.receive().handles[0].take()
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                token.close()
                # the number is free only when no task waits for it any more
                with sysmem.BufferCollectionToken.from_fd(os.dup(other.fileno())) as again:
                    again_end = type(peer)(server_end)
                    again_end.echo(1)
                    await again.sync(timeout=10)
                    again_end.join()
                    again_end.close()

    run(test)


def test_a_full_queue_honours_timeout_and_cancellation_and_goes_on(run: Run, ends: Ends) -> None:
    fd, peer = ends
    count = 0

    async def fill(token: sysmem.BufferCollectionToken) -> None:
        nonlocal count
        while True:
            await token.set_name(count, "x" * 64, timeout=0.01)
            count += 1

    async def test() -> None:
        with sysmem.BufferCollectionToken.from_fd(fd) as token:
            with pytest.raises(TimeoutError, match="nothing was sent"):
                await fill(token)
            with pytest.raises(TimeoutError):
                await token.sync(timeout=0.01)
            with anyio.move_on_after(0.01) as cancelled:
                await token.duplicate()
            assert cancelled.cancelled_caught

            def play() -> None:
                for _ in range(count):
                    assert peer.receive().ordinal == Node.set_name.ordinal
                peer.send(peer.receive())

            peer.run(play)
            await token.sync(timeout=10)

    run(test)


def test_an_answer_that_cannot_be_read_breaks_the_channel(run: Run, ends: Ends) -> None:
    fd, peer = ends

    def play() -> None:
        request = peer.receive()
        peer.send(Message(request.txid, request.ordinal, b"\xff"))

    async def test() -> None:
        with sysmem.BufferCollectionToken.from_fd(fd) as token:
            with pytest.raises(sysmem.PeerClosedError, match="broke the protocol"):
                await token.get_buffer_collection_id()
            with pytest.raises(sysmem.PeerClosedError):
                await token.sync()

    peer.run(play)
    run(test)


def test_what_cannot_be_encoded_is_refused_before_anything_is_sent(run: Run, ends: Ends) -> None:
    fd, peer = ends

    async def test() -> None:
        with sysmem.BufferCollectionToken.from_fd(fd) as token:
            with pytest.raises(ValueError, match="64"):
                await token.set_name(0, "x" * 65)
            with pytest.raises(TypeError):
                await token.duplicate(None)  # type: ignore[arg-type]  # what is tested
        with pytest.raises(ConnectionError):
            peer.receive()

    run(test)


def test_a_process_without_descriptors_loses_the_answer_and_no_more(
    run: Run, ends: Ends, witness: Any
) -> None:
    fd, peer = ends

    def play() -> None:
        request = peer.receive()
        peer.answer(request, Node.get_node_ref, m.NodeGetNodeRefResponse(node_ref=witness.handle))
        peer.send(peer.receive())

    async def test() -> None:
        with sysmem.BufferCollectionToken.from_fd(fd) as token:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            async with anyio.create_task_group() as group:
                group.start_soon(token.wait_closed)
                await anyio.wait_all_tasks_blocked()
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
                try:
                    with pytest.raises(OSError, match="no descriptors are left"):
                        await token.get_node_ref()
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                await token.sync()
                group.cancel_scope.cancel()

    peer.run(play)
    run(test)
    assert witness.gone()
