"""The source of a command's events."""

from __future__ import annotations

import signal

import pytest

from sysmem._inspector import Inspector
from sysmem.sysmemctl._source import happening
from sysmem.testing import Sysmemd


def test_an_interrupt_ends_the_events_although_its_exception_was_lost(
    sysmemd: Sysmemd,
) -> None:
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        with Inspector.connect(sysmemd.runtime_dir) as inspector, inspector.watch() as events:
            iterator = happening(events)
            assert next(iterator)["event"] == "watching"
            signal.raise_signal(signal.SIGINT)
            with pytest.raises(KeyboardInterrupt):
                next(iterator)
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.set_wakeup_fd(-1) == -1
