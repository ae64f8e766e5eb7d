"""The async face, with a real daemon, under trio and under asyncio."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

import anyio
import pytest

import sysmem
from sysmem.testing import Sysmemd

WAIT = 120.0
READ_WRITE = sysmem.BufferCollectionConstraints(
    usage=sysmem.BufferUsage(cpu=sysmem.CpuUsage.READ | sysmem.CpuUsage.WRITE),
    min_buffer_count_for_camping=1,
    buffer_memory_constraints=sysmem.BufferMemoryConstraints(min_size_bytes=4096),
)
Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    """Runs an async function in either kind of event loop."""
    return lambda test: anyio.run(test, backend=request.param)


def test_participants_in_tasks(run: Run, sysmemd: Sysmemd) -> None:
    seen: list[bytes] = []

    async def participant(fd: int) -> None:
        async with sysmem.connect(sysmemd.runtime_dir) as allocator:
            token = sysmem.BufferCollectionToken.from_fd(fd)
            async with await allocator.bind_shared_collection(token) as collection:
                await collection.set_constraints(READ_WRITE)
                with await collection.wait_for_all_buffers_allocated(timeout=WAIT) as info:
                    assert len(info.buffers) == 3
                    with info.buffers[0].map() as view:
                        view[0] += 1
                        seen.append(bytes(view[:1]))
                await collection.release()

    async def test() -> None:
        async with sysmem.connect(sysmemd.runtime_dir) as allocator:
            token = await allocator.allocate_shared_collection()
            one, two = await token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 2, timeout=WAIT)
            async with anyio.create_task_group() as group:
                for each in (token, one, two):
                    group.start_soon(participant, each.detach())

    run(test)
    assert sorted(seen) == [b"\1", b"\2", b"\3"]


def test_every_other_call(run: Run, sysmemd: Sysmemd) -> None:
    async def test() -> None:
        async with sysmem.connect(sysmemd.runtime_dir, name="tester", id=1) as allocator:
            await allocator.set_debug_client_info("tester", 2)
            token = await allocator.allocate_shared_collection()
            await token.set_name(1, "frames")
            await token.set_debug_client_info("root", id=3)
            await token.set_debug_timeout_log_deadline(1 << 62)
            await token.set_verbose_logging()
            await token.set_dispensable()
            await token.sync(timeout=WAIT)
            assert await allocator.validate_buffer_collection_token(token.server_koid) is True
            async with await token.create_buffer_collection_token_group() as group:
                child = await group.create_child()
                [other] = await group.create_children_sync([sysmem.Rights.SAME_RIGHTS])
                await group.all_children_present()
                await child.sync(timeout=WAIT)
                with await child.get_node_ref() as ref:
                    assert await other.is_alternate_for(ref) is True
                await other.set_weak()
                await other.set_weak_ok()
                await other.release()
                tracking = await child.attach_node_tracking()
                root = await allocator.bind_shared_collection(token)
                async with root, await allocator.bind_shared_collection(child) as leaf:
                    with pytest.raises(sysmem.SysmemError, match="PENDING"):
                        await root.check_all_buffers_allocated()
                    await root.set_constraints(READ_WRITE)
                    await leaf.set_constraints(READ_WRITE)
                    info = await root.wait_for_all_buffers_allocated(timeout=WAIT)
                    assert await root.get_buffer_collection_id() == info.buffer_collection_id
                    vmo = info.buffers[0].vmo
                    assert vmo is not None
                    assert "frames:0" in os.readlink(f"/proc/self/fd/{vmo.fileno()}")
                    with await allocator.get_vmo_info(vmo, need_weak=True) as found:
                        assert found.buffer_index == 0
                        assert isinstance(found.close_weak_asap, sysmem.EventPair)
                    lifetime = await root.attach_lifetime_tracking()
                    (await root.attach_token()).close()
                    assert await tracking.wait_closed(0) is False
                    await root.release()
                    await leaf.release()
                    await group.release()  # the last strong handle
                    info.close()
                    with tracking, lifetime:
                        assert await lifetime.wait_closed(WAIT) is True
                        assert await tracking.wait_closed(WAIT) is True
            async with await allocator.allocate_non_shared_collection() as alone:
                await alone.set_constraints()
                with pytest.raises(sysmem.PeerClosedError):
                    await alone.wait_for_all_buffers_allocated(timeout=WAIT)
                assert await alone.wait_closed(WAIT)

    run(test)
