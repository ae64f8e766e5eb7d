"""Questions that threads answer."""

from __future__ import annotations

import _thread
import os
import select
import sys
import threading
import time
from collections.abc import Callable, Iterator
from unittest.mock import Mock, call

import pytest

from sysmemd import threads
from sysmemd.threads import MAX_THREADS, Pool, Threads, ask_here

from .recording import RecordingLog


class Asking:
    """The owner of threads: it waits, and passes answers on."""

    def __init__(self) -> None:
        self.log = RecordingLog()
        self.threads = Threads(self.log)

    def until(self, done: Callable[[], object]) -> None:
        while not done():
            assert select.select([self.threads], [], [], 30)[0]
            self.threads.take()


@pytest.fixture
def asking() -> Iterator[Asking]:
    made = Asking()
    yield made
    made.threads.close()
    made.threads.close()


def test_a_question_is_asked_in_a_thread_and_answered_here(asking: Asking) -> None:
    told: list[int] = []
    with pytest.raises(BlockingIOError):  # nothing was asked yet
        asking.threads.take()
    asking.threads.ask(
        threading.get_ident, lambda thread: told.extend([thread, threading.get_ident()])
    )
    assert told == []
    asking.until(lambda: told)
    assert told[0] != told[1] == threading.get_ident()


def test_one_that_is_not_answered_keeps_no_other_waiting(asking: Asking) -> None:
    assert MAX_THREADS > 1
    go_on = threading.Event()
    first: list[bool] = []
    told: list[int] = []
    asking.threads.ask(go_on.wait, first.append)
    for number in range(5):
        asking.threads.ask(lambda number=number: number, told.append)  # type: ignore[misc] # a lambda with a default
    asking.until(lambda: len(told) == 5)
    assert (told, first) == ([0, 1, 2, 3, 4], [])
    go_on.set()
    asking.until(lambda: first)


@pytest.mark.usefixtures("no_threads")
def test_without_a_thread_it_is_asked_all_the_same(asking: Asking) -> None:
    done: list[int] = []
    asking.threads.ask(threading.get_ident, done.append)
    assert done == [threading.get_ident()]


def test_what_goes_wrong_with_an_answer_is_told_and_others_come(asking: Asking) -> None:
    def break_down(_: object) -> None:
        raise KeyError("oh")

    told: list[None] = []
    asking.threads.ask(lambda: None, break_down)
    asking.until(lambda: asking.log.entries)
    asking.threads.ask(lambda: None, told.append)
    asking.until(lambda: told)
    [(event, fields)] = asking.log.said("error")
    assert (event, fields["reason"]) == (
        "an error occurred while a worker thread's result was processed",
        "KeyError('oh')",
    )


def test_an_answer_after_the_end_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """The descriptor may belong to something else by then."""
    started: list[Callable[[], object]] = []
    ring = Mock()
    monkeypatch.setattr(threads, "start", started.append)
    monkeypatch.setattr(threads, "ring", ring)
    made = Threads(RecordingLog())
    made.ask(lambda: None, lambda _: pytest.fail("nobody is asked any more"))
    made.close()
    started[0]()
    assert ring.mock_calls == []


def test_without_a_loop_it_is_asked_at_once() -> None:
    done: list[int] = []
    ask_here(threading.get_ident, done.append)
    assert done == [threading.get_ident()]


# --- a thread that has no memory ---


def test_a_thread_that_dies_before_its_first_call_counts_as_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The interpreter then drops the thread's arguments, and reports this to nobody."""
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    monkeypatch.setattr(threads, "_begin", lambda: None)  # it fails if it is called with arguments
    with pytest.raises(RuntimeError, match="no memory for a thread"):
        threads.start(pytest.fail)


def test_a_thread_that_there_is_no_memory_to_start_counts_as_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_thread, "start_new_thread", Mock(side_effect=MemoryError))
    with pytest.raises(RuntimeError, match="no memory for a thread"):
        threads.start(pytest.fail)


def test_the_loop_is_woken_however_often_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    write = Mock(side_effect=[OSError("no memory"), OSError("no memory"), None])
    slept: list[float] = []
    monkeypatch.setattr(os, "eventfd_write", write)
    monkeypatch.setattr(time, "sleep", slept.append)
    threads.ring(7)
    assert write.mock_calls == [call(7, 1)] * 3
    assert slept == [threads._AGAIN_SECONDS] * 2


# --- jobs ---

PATIENCE = 120.0


class Stuck:
    """A job that does not end until it is released."""

    def __init__(self) -> None:
        self.begun, self.let_go = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        assert self.let_go.wait(PATIENCE)


def wait_for_threads(pool: Pool, number: int) -> None:
    """Wait until a pool has this few threads."""
    with pool._changed:
        assert pool._changed.wait_for(lambda: pool.threads <= number, PATIENCE)


def assert_works(pool: Pool) -> None:
    """Check that a job is done."""
    done = threading.Event()
    assert pool.do(done.set)
    assert done.wait(PATIENCE)


def test_threads_of_a_bad_moment_go_when_it_is_over_while_there_is_other_work(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """This holds while further jobs arrive, at any rate that one thread can serve. No thread is idle for long then."""
    monkeypatch.setattr(threads, "IDLE_SECONDS", 10 * PATIENCE)
    pool = Pool(4, lambda error: None)
    stuck = [Stuck() for _ in range(3)]
    for job in stuck:
        assert pool.do(job)
        assert job.begun.wait(PATIENCE)
        assert pool.help()
    assert pool.threads == 4
    for job in stuck:
        job.let_go.set()
    wait_for_threads(pool, 1)
    assert_works(pool)
    pool.end()
    assert pool.threads == 0


def test_the_last_thread_goes_when_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "IDLE_SECONDS", 0.01)
    pool = Pool(1, lambda error: None)
    for _ in range(2):  # and comes again
        assert_works(pool)
        wait_for_threads(pool, 0)


def test_there_are_no_more_threads_than_there_may_be_and_jobs_wait() -> None:
    pool = Pool(1, lambda error: None)
    stuck, done = Stuck(), threading.Event()
    assert pool.do(stuck)
    assert stuck.begun.wait(PATIENCE)
    assert pool.do(done.set)
    assert not pool.help()
    assert pool.is_behind
    pool.end(0.01)
    assert not done.is_set()
    stuck.let_go.set()
    pool.end()
    assert done.is_set()


def test_a_thread_that_can_not_tell_of_a_failure_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_memory(_: Exception) -> None:
        raise MemoryError

    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    pool = Pool(1, no_memory)
    assert pool.do(lambda: 1 // 0)
    wait_for_threads(pool, 0)
    assert_works(pool)
    pool.end()
    assert pool.threads == 0


def test_what_a_job_raises_is_told_and_others_are_done() -> None:
    told: list[Exception] = []
    pool = Pool(1, told.append)
    assert pool.do(lambda: 1 // 0)
    pool.end()
    assert [type(error) for error in told] == [ZeroDivisionError]
