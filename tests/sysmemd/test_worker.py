"""What is worked out in the loop, what in a thread, and that neither ever stops the daemon."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from sysmemd.worker import INLINE_COST, THREADS, ThreadWorker


class Log:
    """Remembers what was logged: level, event, reason."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, str]] = []

    def warning(self, event: str, *, reason: str) -> None:
        self.entries.append(("warning", event, reason))

    def error(self, event: str, *, reason: str, exc_info: bool) -> None:
        assert exc_info
        self.entries.append(("error", event, reason))


@pytest.fixture
def log() -> Any:
    return Log()


@pytest.mark.trio
async def test_what_is_quickly_done_is_done_at_once(nursery: trio.Nursery, log: Any) -> None:
    done: list[int] = []
    ThreadWorker(nursery, log).run(threading.get_ident, done.append, INLINE_COST)
    assert done == [threading.get_ident()]


@pytest.mark.trio
async def test_what_takes_long_is_done_in_a_thread_and_told_in_the_loop(
    nursery: trio.Nursery, log: Any
) -> None:
    told = trio.Event()
    threads: list[int] = []

    def done(thread: int) -> None:
        threads.extend([thread, threading.get_ident()])
        told.set()

    ThreadWorker(nursery, log).run(threading.get_ident, done, INLINE_COST + 1)
    assert threads == []
    await told.wait()
    assert threads[0] != threads[1] == threading.get_ident()


@pytest.mark.trio
async def test_one_that_takes_long_does_not_keep_another_waiting(
    nursery: trio.Nursery, log: Any
) -> None:
    assert THREADS > 1
    worker = ThreadWorker(nursery, log)
    go_on, told = threading.Event(), trio.Event()
    first: list[bool] = []
    worker.run(go_on.wait, first.append, INLINE_COST + 1)
    worker.run(lambda: None, lambda _: told.set(), INLINE_COST + 1)
    await told.wait()
    assert first == []
    go_on.set()


@pytest.mark.trio
async def test_without_a_thread_all_wait_but_it_is_done(
    nursery: trio.Nursery, log: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none_left(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", none_left)
    done: list[int] = []
    ThreadWorker(nursery, log).run(threading.get_ident, done.append, INLINE_COST + 1)
    await wait_all_tasks_blocked()
    assert done == [threading.get_ident()]
    assert log.entries == [("warning", "an attempt holds up all clients", "can't start new thread")]


@pytest.mark.trio
async def test_what_can_not_be_concluded_is_logged(nursery: trio.Nursery, log: Any) -> None:
    told = trio.Event()

    def done(_: object) -> None:
        told.set()
        raise KeyError("oh")

    ThreadWorker(nursery, log).run(lambda: None, done, INLINE_COST + 1)
    await told.wait()
    await wait_all_tasks_blocked()
    assert log.entries == [("error", "an attempt could not be concluded", "KeyError('oh')")]
