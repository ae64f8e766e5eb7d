"""Work that takes long, for all packages of the daemon."""

from __future__ import annotations

import pytest

from .slow import SlowWork


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> SlowWork:
    """Attempts to allocate pause, and go on when the test says so."""
    work = SlowWork()
    work.slow_down(monkeypatch)
    return work
