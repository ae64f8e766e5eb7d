"""Events: the server's ends of eventpairs."""

from __future__ import annotations

import errno

import pytest

from sysmemd.memory.watch import Hangups

from .harness import Bench, pair


@pytest.mark.parametrize("first", ["client", "server"])
def test_an_event_says_when_it_closes_and_that_its_client_is_gone(bench: Bench, first: str) -> None:
    near, far = pair()
    said: list[str] = []
    event = bench.memory.event(near, lambda: said.append("closed"))
    event.when_gone(lambda: said.append("gone"))
    if first == "server":
        event.close()
    far.close()
    bench.memory.process_events()
    event.close()
    assert near.closed
    assert said == (["closed", "gone"] if first == "client" else ["closed"])


def test_an_event_that_cannot_be_watched_is_closed(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    monkeypatch.setattr(Hangups, "add", fail)
    near, far = pair()
    said: list[str] = []
    with far, pytest.raises(OSError, match="no memory"):
        bench.memory.event(near, lambda: said.append("closed"))
    assert near.closed
    assert said == ["closed"]
