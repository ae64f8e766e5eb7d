"""The async face under trio and under asyncio: the same names, awaited (`docs/spec/client-api.md`)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
import trio

import sysmem
from sysmem import Error, PeerClosedError, SysmemError, blocking
from sysmem.testing import Sysmemd

from .conftest import Run
from .scenario import ENOUGH, buffers, event_of, image, images, vmo_of


@asynccontextmanager
async def gated(
    allocator: sysmem.Allocator, count: int
) -> AsyncIterator[tuple[sysmem.BufferCollectionToken, list[sysmem.BufferCollection]]]:
    """A root token that prevents the allocation until its release, and `count` collections of its children."""
    async with AsyncExitStack() as stack:
        gate = await stack.enter_async_context(await allocator.allocate_shared_collection())
        tokens = await gate.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * count)
        yield (
            gate,
            [
                await stack.enter_async_context(await allocator.bind_shared_collection(token))
                for token in tokens
            ],
        )


async def soon(task: Callable[[], Awaitable[Any]], group: anyio.abc.TaskGroup) -> list[Any]:
    """Start a task, let it run until it waits, and return the list that receives its outcome."""
    done: list[Any] = []

    async def outcome() -> None:
        try:
            done.append(await task())
        except (SysmemError, PeerClosedError, TimeoutError) as error:
            done.append(error)

    group.start_soon(outcome)
    await anyio.wait_all_tasks_blocked()
    return done


def test_the_example_of_the_specification_runs(run: Run, daemon: Sysmemd) -> None:
    async def scenario(_: sysmem.Allocator) -> None:
        async with sysmem.connect(daemon.runtime_dir, name="tasks", id=5) as allocator:
            token = await allocator.allocate_shared_collection()
            other = await token.duplicate(rights_attenuation_mask=sysmem.Rights.SAME_RIGHTS)
            await token.sync()
            fd = other.detach()
            assert isinstance(fd, int)
            other = sysmem.BufferCollectionToken.from_fd(fd)
            await other.release()
            collection = await allocator.bind_shared_collection(token)
            await collection.set_constraints(buffers(65536, min_buffer_count_for_camping=2))
            info = await collection.wait_for_all_buffers_allocated()
            assert info.buffers is not None
            assert len(info.buffers) == 2
            with info.buffers[0].map() as view:
                view[:5] = b"hello"
            found = await allocator.get_vmo_info(vmo_of(info, 1), need_single_buffer_settings=True)
            assert found.buffer_index == 1
            assert found.single_buffer_settings == info.settings
            info.close()
            await collection.release()

    run(scenario)


def test_with_blocks_close(run: Run, daemon: Sysmemd) -> None:
    async def scenario(_: sysmem.Allocator) -> None:
        async with sysmem.connect(daemon.runtime_dir) as allocator:
            async with await allocator.allocate_shared_collection() as token:
                await token.sync()
                assert await allocator.validate_buffer_collection_token(token.server_koid)
                koid = token.server_koid
            token.close()
            with pytest.raises(sysmem.HandleClosedError):
                await token.sync()
            while await allocator.validate_buffer_collection_token(koid):
                pass
        allocator.close()
        with pytest.raises(sysmem.HandleClosedError):
            await allocator.allocate_shared_collection()

    run(scenario)


def test_a_sync_is_answered_while_waits_are_pending(run: Run) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        async with gated(allocator, 1) as (gate, (collection,)):
            await collection.set_constraints(buffers())
            async with anyio.create_task_group() as group:
                waits = [
                    await soon(collection.wait_for_all_buffers_allocated, group) for _ in range(5)
                ]
                for _ in range(20):
                    await collection.sync()
                assert waits == [[]] * 5
                await gate.release()
            for (info,) in waits:
                assert isinstance(info, sysmem.BufferCollectionInfo)
                info.close()

    run(scenario)


def test_errors_timeouts_and_closes(run: Run) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        async with gated(allocator, 2) as (gate, (one, two)):
            with pytest.raises(SysmemError) as raised:
                await one.check_all_buffers_allocated()
            assert raised.value.error is Error.PENDING
            await one.set_constraints(buffers())
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    await one.wait_for_all_buffers_allocated(timeout=0.01)
            assert await one.wait_closed(timeout=0.01) is False
            with anyio.move_on_after(0.01):
                await one.wait_for_all_buffers_allocated()
            await one.sync()
            async with anyio.create_task_group() as group:
                wait = await soon(one.wait_for_all_buffers_allocated, group)
                closed = await soon(one.wait_closed, group)
                two.close()
            assert isinstance(wait[0], PeerClosedError)
            assert closed == [True]
            with pytest.raises(PeerClosedError):
                await one.set_name(1, "n")
            assert await gate.wait_closed() is True

    run(scenario)


def test_a_refusal_is_told_to_who_waits(run: Run) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        async with gated(allocator, 2) as (gate, (one, two)), anyio.create_task_group() as group:
            await one.set_constraints(images(image(sysmem.PixelFormat.R8)))
            await two.set_constraints(images(image(sysmem.PixelFormat.NV12)))
            waits = [await soon(node.wait_for_all_buffers_allocated, group) for node in (one, two)]
            await one.sync()
            await two.sync()
            await gate.release()
            assert await one.wait_closed()
            assert await two.wait_closed()
            await anyio.wait_all_tasks_blocked()
            for (error,) in waits:
                assert isinstance(error, SysmemError)
                assert error.error is Error.CONSTRAINTS_INTERSECTION_EMPTY

    run(scenario)


def test_cancelled_waits_leave_nothing_open(run: Run) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        for _ in range(10):
            async with gated(allocator, 1) as (gate, (collection,)):
                await collection.set_constraints(buffers())
                async with anyio.create_task_group() as group:
                    for _ in range(3):
                        group.start_soon(collection.wait_for_all_buffers_allocated)
                    await anyio.wait_all_tasks_blocked()
                    await collection.sync()
                    group.cancel_scope.cancel()
                lifetime = await collection.attach_lifetime_tracking()
                await gate.release()
                (await collection.wait_for_all_buffers_allocated()).close()
                await collection.release()
                assert await lifetime.wait_closed()
                lifetime.close()

    run(scenario)


def test_a_cancelled_call_without_a_response_has_sent_nothing(run: Run) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        token = await allocator.allocate_shared_collection()
        with anyio.move_on_after(0):
            await allocator.bind_shared_collection(token)
        assert not token.closed
        collection = await allocator.bind_shared_collection(token)
        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: collection.set_constraints(buffers()),
            collection.attach_token,
            collection.release,
        ]
        for call in calls:
            with anyio.move_on_after(0) as scope:
                await call()
            assert scope.cancelled_caught
        async with collection:
            await collection.set_constraints(buffers())
            (await collection.wait_for_all_buffers_allocated()).close()

    run(scenario)


@pytest.mark.parametrize("of_a_group", [False, True])
def test_tokens_that_a_cancelled_call_created_fail(run: Run, of_a_group: bool) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        async with (
            await allocator.allocate_shared_collection() as token,
            await token.create_buffer_collection_token_group() as choices,
        ):
            parent = choices if of_a_group else token
            create = choices.create_children_sync if of_a_group else token.duplicate_sync

            async def call() -> None:
                for created in await create([sysmem.Rights.SAME_RIGHTS]):
                    created.close()  # a quick daemon may have answered before the cancellation

            async with anyio.create_task_group() as group:
                group.start_soon(call)
                await anyio.wait_all_tasks_blocked()
                group.cancel_scope.cancel()
            assert await parent.wait_closed()

    run(scenario)


def test_weak_groups_attach_and_events(run: Run) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        root = await allocator.allocate_shared_collection()
        group = await root.create_buffer_collection_token_group()
        child = await group.create_child()
        (other,) = await group.create_children_sync([0xFFFFFFFF])
        await group.all_children_present()
        await child.set_weak()
        await child.set_dispensable()
        await child.sync()
        with await other.get_node_ref() as node_ref:
            assert await child.is_alternate_for(node_ref) is True
            assert await root.is_alternate_for(node_ref) is False
        weak = await allocator.bind_shared_collection(child)
        hidden = await allocator.bind_shared_collection(other)
        strong = await allocator.bind_shared_collection(root)
        async with group, weak, hidden, strong:
            for node in (weak, hidden, strong):
                await node.set_constraints(buffers())
            info = await weak.wait_for_all_buffers_allocated()
            assert await hidden.wait_closed()
            token = await strong.attach_token()
            tracking = await token.attach_node_tracking()
            assert isinstance(tracking, sysmem.AsyncEventPair)
            assert await tracking.wait_closed(timeout=0.01) is False
            await token.sync()
            token.close()
            assert await tracking.wait_closed() is True
            tracking.close()
            await strong.release()
            await group.release()
            event = event_of(info)
            assert isinstance(event, sysmem.AsyncEventPair)
            assert await event.wait_closed() is True
            assert event.is_closed()
            info.close()

    run(scenario)


def test_many_objects_connect_without_a_pause(run: Run, daemon: Sysmemd) -> None:
    async def scenario(_: sysmem.Allocator) -> None:
        allocators = [sysmem.connect(daemon.runtime_dir) for _ in range(300)]
        for allocator in allocators:
            assert await allocator.validate_buffer_collection_token(1) is False
            allocator.close()

    run(scenario)


def test_a_wait_can_be_tried_again_and_again(run: Run) -> None:
    # More than the number of outstanding calls that the daemon allows on one channel.
    async def scenario(allocator: sysmem.Allocator) -> None:
        async with gated(allocator, 1) as (gate, (collection,)):
            await collection.set_constraints(buffers())
            for _ in range(1100):
                with pytest.raises(TimeoutError):
                    await collection.wait_for_all_buffers_allocated(timeout=0)
            await collection.sync()
            await gate.release()
            (await collection.wait_for_all_buffers_allocated()).close()

    run(scenario)


def test_many_tasks_on_one_allocator(run: Run) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        numbers: list[int | None] = []

        async def work(size: int) -> None:
            async with await allocator.allocate_non_shared_collection() as collection:
                await collection.set_constraints(buffers(size))
                with await collection.wait_for_all_buffers_allocated() as info:
                    assert info.settings is not None
                    assert info.settings.buffer_settings is not None
                    assert info.settings.buffer_settings.size_bytes == size
                    numbers.append(info.buffer_collection_id)
                await collection.release()

        async with anyio.create_task_group() as group:
            for size in range(1, 51):
                group.start_soon(work, size)
        assert len(set(numbers)) == 50

    run(scenario)


def test_many_tasks_connect_at_once(run: Run, daemon: Sysmemd) -> None:
    async def scenario(_: sysmem.Allocator) -> None:
        async def work() -> None:
            async with sysmem.connect(daemon.runtime_dir) as allocator:
                assert await allocator.validate_buffer_collection_token(1) is False

        async with anyio.create_task_group() as group:
            for _number in range(300):
                group.start_soon(work)

    run(scenario)


def test_arguments_are_checked_before_anything_is_sent(run: Run) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        async with await allocator.allocate_non_shared_collection() as collection:
            with pytest.raises((TypeError, ValueError)):
                await collection.set_constraints(buffers(min_buffer_count=-1))
            with pytest.raises((TypeError, ValueError)):
                await collection.set_name(1, "n" * 65)
            with pytest.raises((TypeError, ValueError)):
                await allocator.bind_shared_collection(None)  # type: ignore[arg-type]
            await collection.set_constraints(buffers())
            (await collection.wait_for_all_buffers_allocated()).close()

    run(scenario)


def test_dropped_objects_warn(run: Run) -> None:
    async def scenario(allocator: sysmem.Allocator) -> None:
        held: list[Any] = [await allocator.allocate_shared_collection()]
        await held[0].sync()
        held.append(await held[0].attach_node_tracking())
        fds = [thing.fileno() for thing in held]
        with pytest.warns(ResourceWarning):
            held.clear()
        for fd in fds:
            with pytest.raises(OSError, match="Bad file descriptor"):
                os.fstat(fd)

    run(scenario)


def test_a_daemon_that_is_not_there(run: Run, tmp_path: Any) -> None:
    async def scenario(_: sysmem.Allocator) -> None:
        with pytest.raises(sysmem.DaemonUnavailableError, match=str(tmp_path)):
            async with sysmem.connect(tmp_path):
                pass

    run(scenario)


def test_both_faces_and_loops_share_a_collection(daemon: Sysmemd) -> None:
    """A trio task, an asyncio task and a thread are three participants of one collection."""

    async def participate(fd: int) -> int | None:
        async with sysmem.connect(daemon.runtime_dir) as allocator:
            token = sysmem.BufferCollectionToken.from_fd(fd)
            async with await allocator.bind_shared_collection(token) as collection:
                await collection.set_constraints(buffers())
                with await collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
                    number = info.buffer_collection_id
                await collection.release()
                return number

    with (
        blocking.connect(daemon.runtime_dir) as allocator,
        allocator.allocate_shared_collection() as root,
        ThreadPoolExecutor(2) as threads,
    ):
        one, two = root.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 2)
        trio_task = threads.submit(trio.run, partial(participate, one.detach()))
        asyncio_task = threads.submit(lambda fd: asyncio.run(participate(fd)), two.detach())
        with allocator.bind_shared_collection(root) as collection:
            collection.set_constraints(buffers())
            with collection.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
                assert info.buffers is not None
                assert len(info.buffers) == 3
                assert trio_task.result(ENOUGH) == info.buffer_collection_id
                assert asyncio_task.result(ENOUGH) == info.buffer_collection_id
