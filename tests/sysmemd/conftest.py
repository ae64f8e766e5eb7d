"""Work that takes long, threads that can't start, the limit of descriptors, and a queue of users with its clock."""

from __future__ import annotations

import _thread
import resource
from collections.abc import Iterator
from contextlib import closing

import pytest

from sysmemd.fair_queue import Queue

from .slow import SlowWork
from .turns import Time


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> SlowWork:
    """Attempts to allocate pause, and go on when the test says so."""
    work = SlowWork()
    work.slow_down(monkeypatch)
    return work


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread can be started."""

    def none_left(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", none_left)


@pytest.fixture
def descriptor_limit() -> Iterator[None]:
    """The process's limit of descriptors is the same after the test."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def queue() -> Iterator[Queue]:
    with closing(Queue()) as queue:
        yield queue
