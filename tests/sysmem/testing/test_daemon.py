"""The daemon in the test's own loop, and in a thread."""

from __future__ import annotations

import asyncio
import os
import pwd
import signal
import threading
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import pytest
import structlog
import trio
from trio.testing import MockClock

import sysmem
from sysmem import testing
from sysmem.testing._clock import OtherClock
from sysmemd.channels import AllocatorServer
from sysmemd.pause import give_way
from sysmemd.tree.choose import Question

CAMERA = sysmem.constraints("NV12 64x48", cpu="write often", hold=2)
ENCODER = sysmem.constraints("NV12", cpu="read", hold=1)


def events(d: testing.Daemon, event: str) -> list[dict[str, Any]]:
    return [entry for entry in d.log if entry["event"] == event]


async def participants(allocator: sysmem.Allocator, count: int) -> list[sysmem.BufferCollection]:
    token = await allocator.allocate_shared_collection()
    tokens = await token.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * count)
    await token.release()
    return [await allocator.bind_shared_collection(each) for each in tokens]


@pytest.mark.trio
async def test_participants_share_real_buffers() -> None:
    async with testing.daemon() as d, d.connect(name="test", id=7) as allocator:
        camera, encoder = await participants(allocator, 2)
        with camera, encoder:
            await camera.set_constraints(CAMERA)
            await encoder.set_constraints(ENCODER)
            with (
                await camera.wait_for_all_buffers_allocated() as written,
                await encoder.wait_for_all_buffers_allocated() as read,
            ):
                assert written.buffers is not None
                assert read.buffers is not None
                assert len(read.buffers) == 3
                with written.buffers[0].map() as view:
                    view[:5] = b"hello"
                with read.buffers[0].map() as view:
                    assert bytes(view[:5]) == b"hello"
            await camera.release()
            await encoder.release()


@pytest.mark.trio
async def test_its_log_is_a_list_of_events() -> None:
    async with testing.daemon() as d, d.connect(name="lone camera", id=7) as allocator:
        async with await allocator.allocate_shared_collection() as token:
            await token.sync()
        async with await allocator.allocate_non_shared_collection() as collection:
            await collection.sync()
    failed = events(d, "collection failed")[0]
    assert failed["level"] == "error"
    assert failed["client_name"] == "lone camera"
    assert failed["client_id"] == 7


@pytest.mark.trio
async def test_its_configuration_is_a_daemons() -> None:
    config = {"limits": {"max_buffer_bytes": 4096}}
    async with testing.daemon(config) as d, d.connect() as allocator:
        collection = await allocator.allocate_non_shared_collection()
        await collection.set_constraints(sysmem.constraints(cpu="read", size_bytes=5000, hold=1))
        assert await collection.wait_closed()
        collection.close()
    assert (
        "over the limit of this daemon (5000 > 4096)" in events(d, "allocation failed")[0]["reason"]
    )
    with pytest.raises(testing.ConfigError):
        async with testing.daemon({"no": "such"}):
            pass


@pytest.mark.trio
async def test_it_tells_what_it_holds_why_and_what_came() -> None:
    async with testing.daemon() as d, d.connect(name="camera") as allocator:
        camera, other = await participants(allocator, 2)
        with camera, other:
            await camera.set_name(1, "video")
            await camera.set_constraints(CAMERA)
            await camera.sync()
            [collection] = d.snapshot()["collections"]
            assert collection["name"] == "video"
            assert collection["state"] == "negotiating"
            for name in ("video", collection["id"]):
                assert "must set constraints" in d.why(name)
            last = [(each["direction"], each["method"], each["fields"]) for each in d.trace[-3:]]
            assert last == [
                ("in", "SetConstraints", ["constraints"]),
                ("in", "Sync", []),
                ("out", "Sync", []),
            ]
            numbers = [each["number"] for each in d.trace]
            assert numbers == list(range(1, len(numbers) + 1))
            assert {each["client_name"] for each in d.trace[1:]} == {"camera"}
            with pytest.raises(ValueError, match="has no collection 'audio'"):
                d.why("audio")
            with pytest.raises(AssertionError, match="has not been negotiated yet"):
                d.last_report()
            await other.set_constraints(ENCODER)
            await other.sync()
            assert "buffer_count = 3" in d.why("video")
            assert d.last_report() in d.why("video")


@pytest.mark.trio
async def test_without_a_collection_there_is_no_report() -> None:
    async with testing.daemon() as d:
        with pytest.raises(AssertionError, match="the daemon has had no collection"):
            d.last_report()


@pytest.mark.trio
async def test_it_tells_why_also_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sysmem.testing._story.find_spec", lambda name: None)
    async with (
        testing.daemon() as d,
        d.connect(name="camera") as allocator,
        await allocator.allocate_shared_collection() as token,
    ):
        await token.sync()
        [collection] = d.snapshot()["collections"]
        assert "camera" in d.why(collection["id"])
        titles = [title for title, _ in d._core.story()]
        assert titles == ["who waits for whom", "the last messages"]


@pytest.mark.trio
async def test_warnings_take_no_time_with_a_clock_that_jumps(autojump_clock: MockClock) -> None:
    async with testing.daemon(clock=autojump_clock) as d, d.connect() as allocator:
        began = trio.current_time()
        [camera, _missing] = await participants(allocator, 2)
        with camera, _missing:
            await camera.set_constraints(CAMERA)
            with pytest.raises(TimeoutError):
                await camera.wait_for_all_buffers_allocated(timeout=60)
        assert trio.current_time() == pytest.approx(began + 60)
        slow = events(d, "allocation is taking a while")
        assert [round(entry["seconds"]) for entry in slow] == [5, 35]


@pytest.mark.trio
async def test_leaks_take_no_time_with_a_clock_that_jumps(autojump_clock: MockClock) -> None:
    async with testing.daemon() as d, d.connect() as allocator:
        token = await allocator.allocate_shared_collection()
        [other] = await token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        await other.set_weak()
        strong, weak = [await allocator.bind_shared_collection(each) for each in (token, other)]
        with strong, weak:
            await strong.set_constraints(CAMERA)
            await weak.set_constraints(CAMERA)
            (await strong.wait_for_all_buffers_allocated()).close()
            with await weak.wait_for_all_buffers_allocated():
                await strong.release()
                await trio.sleep(6)
        assert events(d, "weak VMO handles leaked: still open 5 s after close_weak_asap")


@pytest.mark.trio
async def test_a_deadline_is_told_in_the_monotonic_clocks_time(autojump_clock: MockClock) -> None:
    async with testing.daemon() as d, d.connect() as allocator:
        async with await allocator.allocate_shared_collection() as token:
            await token.set_debug_timeout_log_deadline(time.monotonic_ns() + 2 * 10**9)
            await token.sync()
            await trio.sleep(3)
        [slow] = events(d, "allocation is taking a while")
        assert slow["seconds"] == pytest.approx(2, abs=1)


@pytest.mark.trio
async def test_costly_attempts_are_no_idleness_to_a_clock_that_jumps(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = Question.answer

    def slow(question: Question) -> Any:
        for _ in range(10):
            time.sleep(0.001)
            give_way()
        return answered(question)

    monkeypatch.setattr(Question, "answer", slow)
    async with testing.daemon() as d, d.connect() as allocator:
        collection = await allocator.allocate_non_shared_collection()
        await collection.set_constraints(CAMERA)
        (await collection.wait_for_all_buffers_allocated(timeout=1)).close()
        collection.close()


@pytest.mark.trio
@pytest.mark.parametrize(
    ("arguments", "jump"), [({"autojump_threshold": 0}, 0), ({"rate": 1e4}, 0), ({}, 6)]
)
async def test_the_daemons_time_may_pass_alone(arguments: dict[str, float], jump: float) -> None:
    clock = MockClock(**arguments)
    async with testing.daemon(clock=clock) as d, d.connect() as allocator:
        with await allocator.allocate_shared_collection() as token:
            await token.sync()
            clock.jump(jump)
            with trio.fail_after(60):
                while not events(d, "allocation is taking a while"):
                    assert not await token.wait_closed(timeout=0.001)


@pytest.mark.trio
async def test_others_run_between_the_calls_of_a_clock_of_its_own() -> None:
    clock = OtherClock(structlog.get_logger(), MockClock())
    calls: list[int] = []
    for number in range(100):
        clock.call_at(0, partial(calls.append, number))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(clock.run)
        while not calls:
            await trio.lowlevel.checkpoint()
        assert len(calls) < 100
        nursery.cancel_scope.cancel()


def test_without_a_trio_loop_the_other_face_is_named() -> None:
    async def main() -> None:
        async with testing.daemon():
            pass

    with pytest.raises(RuntimeError, match="needs a trio loop; elsewhere use"):
        asyncio.run(main())


@pytest.mark.trio
async def test_what_the_test_raises_is_raised_as_it_is() -> None:
    with pytest.raises(ZeroDivisionError):
        async with testing.daemon():
            raise ZeroDivisionError


@pytest.mark.trio
async def test_nothing_of_the_process_is_changed() -> None:
    before = (signal.getsignal(signal.SIGTERM), os.getcwd(), threading.active_count())
    async with testing.daemon():
        assert (signal.getsignal(signal.SIGTERM), os.getcwd(), threading.active_count()) == before


@pytest.mark.trio
async def test_a_fault_of_the_daemon_fails_the_test(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(AllocatorServer, "validate_buffer_collection_token", broken)
    with pytest.raises(AssertionError, match=r"the daemon logged an internal error: .*broken"):
        await ask_of(testing.daemon())


async def ask_of(daemon: AbstractAsyncContextManager[testing.Daemon]) -> None:
    async with daemon as d, d.connect() as allocator:
        with pytest.raises(sysmem.PeerClosedError):
            await allocator.validate_buffer_collection_token(7)


@pytest.fixture
async def d() -> AsyncIterator[testing.Daemon]:
    async with testing.daemon() as running:
        yield running


@pytest.mark.trio
async def test_it_may_be_a_fixture(d: testing.Daemon) -> None:
    async with d.connect() as allocator:
        assert not await allocator.validate_buffer_collection_token(7)


@pytest.mark.trio
async def test_tokens_are_passed_on_by_name(d: testing.Daemon) -> None:
    async with d.connect() as here, d.connect() as there, trio.open_nursery() as nursery:
        nursery.start_soon(here.offer, "camera", await here.allocate_shared_collection())
        async with await there.take("camera") as token:
            await token.sync()


# --- in a thread ----------------------------------------------------------------------------------------------------


def test_blocking_participants_have_one_in_a_thread() -> None:
    threads = threading.active_count()
    with (
        testing.blocking.daemon({"limits": {"max_buffer_bytes": 8192}}) as d,
        d.connect(name="camera") as allocator,
        allocator.allocate_non_shared_collection() as collection,
    ):
        collection.set_constraints(CAMERA)
        with collection.wait_for_all_buffers_allocated() as info:
            assert info.buffers is not None
            with info.buffers[0].map() as view:
                assert len(view) == 8192
    assert d.log
    assert threading.active_count() == threads


def test_tokens_are_passed_on_by_name_to_a_thread() -> None:
    with (
        testing.blocking.daemon() as d,
        d.connect() as here,
        d.connect() as there,
        ThreadPoolExecutor() as pool,
    ):
        offer = pool.submit(here.offer, "camera", here.allocate_shared_collection())
        with there.take("camera") as token:
            token.sync()
        offer.result()


def test_one_in_a_thread_tells_the_same() -> None:
    with (
        testing.blocking.daemon() as d,
        d.connect(name="camera") as allocator,
        allocator.allocate_shared_collection() as token,
    ):
        token.set_name(1, "video")
        token.sync()
        snapshot = d.snapshot()
        assert [each["name"] for each in snapshot["collections"]] == ["video"]
        assert [each["name"] for each in snapshot["users"]] == [pwd.getpwuid(os.getuid()).pw_name]
        assert "messages" in snapshot["counters"]
        assert "video" in d.why("video")
        assert d.trace[-1]["method"] == "Sync"


def test_one_in_a_thread_has_the_same_errors() -> None:
    threads = threading.active_count()
    with pytest.raises(testing.ConfigError), testing.blocking.daemon({"no": "such"}):
        pass
    with pytest.raises(ZeroDivisionError), testing.blocking.daemon():
        raise ZeroDivisionError
    assert threading.active_count() == threads


def test_one_in_a_thread_may_have_a_clock_of_its_own() -> None:
    with (
        testing.blocking.daemon(clock=MockClock(autojump_threshold=0)) as d,
        d.connect() as allocator,
        allocator.allocate_shared_collection() as token,
    ):
        token.sync()
        event = token.attach_node_tracking()
        event.close()
        while not any(entry["event"] == "allocation is taking a while" for entry in d.log):
            token.sync()
