"""The source of a command's events."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import pytest

from sysmem._inspector import Inspector
from sysmem.sysmemctl._source import ClientEnds, happening, say_lost
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


def test_in_another_thread_events_come_without_signals(sysmemd: Sysmemd) -> None:
    with (
        ThreadPoolExecutor() as pool,
        Inspector.connect(sysmemd.runtime_dir) as inspector,
        inspector.watch() as events,
    ):
        assert pool.submit(next, happening(events)).result()["event"] == "watching"
    assert signal.set_wakeup_fd(-1) == -1


def test_lost_events_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    say_lost({"count": 3})
    assert capsys.readouterr().err == "sysmemctl: 3 events were lost\n"


def test_without_sock_diag_no_process_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    node = {"number": 1, "koid": 5, "connected": True}
    one = {"id": 3, "nodes": [node]}
    for error, found in ((OSError(), None), (None, {b"\0sysmem/x": 1, b"\0sysmem/6": 2})):
        named = Mock(side_effect=error, return_value=found)
        monkeypatch.setattr("sysmem.sysmemctl._source.named_sockets", named)
        ends = ClientEnds([one])
        assert (ends.of(one, node), ends.as_data()["held"]) == ([], [])
    assert ClientEnds([{**one, "nodes": [{**node, "connected": False}]}]).unseen == []
    assert named.call_count == 1
