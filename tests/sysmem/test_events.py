"""Events (ends of eventpairs) in both faces."""

from __future__ import annotations

import os
import threading
from typing import Any

import anyio
import pytest

import sysmem
from sysmem import blocking
from sysmem_protocol.handles import Handle, eventpair

Pair = tuple[blocking.EventPair, Handle]


@pytest.fixture
def pair() -> Pair:
    near, far = eventpair()
    return blocking.EventPair(near.take()), far


def test_waiting_in_threads(pair: Pair) -> None:
    near, far = pair
    with near:
        assert isinstance(near, sysmem.EventPair)
        assert not near.is_closed()
        assert near.wait_closed(0) is False
        assert near.wait_closed(timeout=0.01) is False
        results: list[bool] = []
        threads = [
            threading.Thread(target=lambda: results.append(near.wait_closed())) for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        far.close()
        for thread in threads:
            thread.join()
        assert results == [True] * 3
        assert near.is_closed()
        assert near.wait_closed() is True
        assert near.wait_closed(0) is True


def test_closing_wakes_waiting_threads(pair: Pair, until_asleep: Any) -> None:
    near, far = pair
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            near.wait_closed()
        except sysmem.HandleClosedError as error:
            caught.append(error)

    with near.duplicate() as other:
        thread = threading.Thread(target=wait)
        thread.start()
        until_asleep(thread)
        with pytest.raises(RuntimeError, match="waits"):
            near.take()
        near.close()
        near.close()
        thread.join()
        assert len(caught) == 1
        assert not other.is_closed()
        far.close()
        assert other.wait_closed(10)
    with pytest.raises(sysmem.HandleClosedError):
        near.wait_closed()
    with pytest.raises(sysmem.HandleClosedError):
        near.is_closed()


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_waiting_in_tasks(backend: str) -> None:
    near, far = eventpair()
    results: list[bool] = []

    async def test() -> None:
        pair = sysmem.AsyncEventPair(near.take())
        assert isinstance(pair, sysmem.EventPair)

        async def wait() -> None:
            results.append(await pair.wait_closed())

        with pair:
            assert await pair.wait_closed(0) is False
            assert await pair.wait_closed(timeout=0.01) is False
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                os.write(far.fileno(), b"no news")
                await anyio.wait_all_tasks_blocked()
                far.close()
            assert results == [True] * 3
            assert pair.is_closed()
            assert await pair.wait_closed(0) is True

    anyio.run(test, backend=backend)


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_closing_wakes_waiting_tasks(backend: str) -> None:
    near, far = eventpair()

    async def test() -> None:
        pair = sysmem.AsyncEventPair(near.take())

        async def wait() -> None:
            with pytest.raises(sysmem.HandleClosedError):
                await pair.wait_closed()

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="waits"):
                pair.take()
            pair.close()
            pair.close()

    anyio.run(test, backend=backend)
    far.close()
