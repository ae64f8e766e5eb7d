"""Work that takes long and threads that can't start, for all packages of the daemon."""

from __future__ import annotations

import _thread

import pytest

from .slow import SlowWork


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
