"""Events: the server's ends of eventpairs."""

from __future__ import annotations

import pytest

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
