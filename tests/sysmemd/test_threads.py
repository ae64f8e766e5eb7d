"""Questions asked in threads."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable, Iterator

import pytest

from sysmemd.threads import MAX_THREADS, Threads, ask_here

from .channels.support import RecordingLog


class Asking:
    """The owner of threads: waits, and hands out."""

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


def test_without_a_thread_it_is_asked_all_the_same(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
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
    assert (event, fields["reason"]) == ("an answer could not be used", "KeyError('oh')")


def test_an_answer_after_the_end_writes_to_nobody() -> None:
    go_on = threading.Event()
    threads = Threads(RecordingLog())
    threads.ask(go_on.wait, lambda _: None)
    threads.close()
    taken = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # perhaps the same number
    go_on.set()
    for thread in threading.enumerate():
        if thread.name == "ask":
            thread.join(30)
    with pytest.raises(BlockingIOError):
        os.eventfd_read(taken)
    os.close(taken)


def test_without_a_loop_it_is_asked_at_once() -> None:
    done: list[int] = []
    ask_here(threading.get_ident, done.append)
    assert done == [threading.get_ident()]
