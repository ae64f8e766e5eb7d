"""Questions asked in threads."""

from __future__ import annotations

import threading

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from sysmemd.threads import MAX_THREADS, Threads, ask_here

from .channels.support import RecordingLog


@pytest.mark.trio
async def test_a_question_is_asked_in_a_thread_and_answered_in_the_loop(
    nursery: trio.Nursery,
) -> None:
    told = trio.Event()
    threads: list[int] = []

    def done(thread: int) -> None:
        threads.extend([thread, threading.get_ident()])
        told.set()

    Threads(nursery, RecordingLog()).ask(threading.get_ident, done)
    assert threads == []
    await told.wait()
    assert threads[0] != threads[1] == threading.get_ident()


@pytest.mark.trio
async def test_one_that_is_not_answered_keeps_no_other_waiting(nursery: trio.Nursery) -> None:
    assert MAX_THREADS > 1
    threads = Threads(nursery, RecordingLog())
    go_on, told = threading.Event(), trio.Event()
    first: list[bool] = []
    threads.ask(go_on.wait, first.append)
    threads.ask(lambda: None, lambda _: told.set())
    await told.wait()
    assert first == []
    go_on.set()


@pytest.mark.trio
async def test_without_a_thread_it_is_asked_all_the_same(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none_left(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(trio.to_thread, "run_sync", none_left)
    done: list[int] = []
    Threads(nursery, RecordingLog()).ask(threading.get_ident, done.append)
    await wait_all_tasks_blocked()
    assert done == [threading.get_ident()]


@pytest.mark.trio
async def test_an_answer_that_can_not_be_used_is_logged(nursery: trio.Nursery) -> None:
    def fail(_: None) -> None:
        raise KeyError("oh")

    log = RecordingLog()
    Threads(nursery, log).ask(lambda: None, fail)
    with trio.fail_after(20):
        while not log.entries:
            await trio.lowlevel.checkpoint()
    [(event, fields)] = log.said("error")
    assert (event, fields["reason"]) == ("an answer could not be used", "KeyError('oh')")


def test_without_a_loop_it_is_asked_at_once() -> None:
    done: list[int] = []
    ask_here(threading.get_ident, done.append)
    assert done == [threading.get_ident()]
