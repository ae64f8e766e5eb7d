"""The differences of the async face: how it waits, under trio and under asyncio."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
import pytest

from sysmem import frames
from sysmem.frames import EndOfStreamError, FrameReceiver, FrameSender
from sysmem_protocol.owner import HandleClosedError

WAIT = 120.0
Test = Callable[[FrameSender, FrameReceiver], Awaitable[None]]


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Test], None]:
    """Runs a test with a producer with two buffers and its consumer, in either event loop."""

    async def with_ends(test: Test) -> None:
        near, far = frames.pair()
        async with FrameSender(2, near) as sender, FrameReceiver(far) as receiver:
            await test(sender, receiver)

    return lambda test: anyio.run(with_ends, test, backend=request.param)


def test_a_stream_between_tasks(run: Callable[[Test], None]) -> None:
    async def test(sender: FrameSender, receiver: FrameReceiver) -> None:
        got: list[int] = []

        async def consume() -> None:
            async for frame in receiver:
                with frame:
                    got.append(frame.sequence)
                    await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            for _ in range(50):
                sender.send(await sender.acquire(timeout=WAIT))
            sender.close("done")
        assert got == list(range(50))
        assert receiver.statistics().ended == "done"

    run(test)


def test_time_and_cancellation_lose_nothing(run: Callable[[Test], None]) -> None:
    async def test(sender: FrameSender, receiver: FrameReceiver) -> None:
        with pytest.raises(TimeoutError, match="no frame arrived in time"):
            await receiver.receive(timeout=0.01)
        with anyio.move_on_after(0.01):
            await receiver.receive()
        for _ in range(2):
            sender.send(await sender.acquire())
        with pytest.raises(TimeoutError, match="consumer 0 has 2"):
            await sender.acquire(timeout=0.01)
        with anyio.move_on_after(0.01):
            await sender.acquire()
        for sequence in range(2):
            with await receiver.receive(timeout=WAIT) as frame:
                assert frame.sequence == sequence
        for _ in range(2):
            await sender.acquire(timeout=WAIT)

    run(test)


def test_all_tasks_that_wait_are_served_or_woken(run: Callable[[Test], None]) -> None:
    async def test(sender: FrameSender, receiver: FrameReceiver) -> None:
        results: list[object] = []

        async def wait(call: Callable[[], Awaitable[object]]) -> None:
            try:
                results.append(await call())
            except HandleClosedError as error:
                results.append(type(error))

        for _ in range(2):
            sender.send(await sender.acquire())
        async with anyio.create_task_group() as group:
            for call in [sender.acquire] * 3 + [receiver.receive] * 3:
                group.start_soon(wait, call)
            await anyio.wait_all_tasks_blocked()
            # Two of the calls get the frames. No call gets a buffer before these are released.
            got = [each for each in results if isinstance(each, frames.Frame)]
            assert len(got) == len(results) == 2
            for frame in got:
                frame.release()
            while len(results) < 4:
                await anyio.lowlevel.checkpoint()
            assert sorted(each for each in results if isinstance(each, int)) == [0, 1]
            receiver.close()
            sender.close()
        assert results[4:] == [HandleClosedError] * 2

    run(test)


def test_a_buffer_that_another_task_gives_back_goes_to_who_waits(
    run: Callable[[Test], None],
) -> None:
    async def test(sender: FrameSender, receiver: FrameReceiver) -> None:
        mine = [await sender.acquire() for _ in range(2)]
        got: list[int] = []

        async def wait() -> None:
            got.append(await sender.acquire(timeout=WAIT))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            sender.cancel(mine[0])
        assert got == [mine[0]]
        sender.send(mine[0])
        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            (await receiver.receive(timeout=WAIT)).release()
            sender.process()  # takes what the other task would have noticed
        assert got == [mine[0]] * 2

    run(test)


def test_the_end_of_a_producer_is_told(run: Callable[[Test], None]) -> None:
    async def test(sender: FrameSender, receiver: FrameReceiver) -> None:
        with pytest.raises(ZeroDivisionError):
            async with sender:
                raise ZeroDivisionError
        with pytest.raises(EndOfStreamError, match="the producer failed: ZeroDivisionError"):
            await anext(receiver)
        with pytest.raises(EndOfStreamError, match="the producer failed: ZeroDivisionError"):
            async for _ in receiver:
                pass

    run(test)
