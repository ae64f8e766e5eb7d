"""A memory to test, and other processes that hold its buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from .harness import Bench, Peer


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


@pytest.fixture
def new_peer() -> Iterator[Callable[..., Peer]]:
    peers: list[Peer] = []

    def make(user: int | None = None) -> Peer:
        peers.append(Peer(user))
        return peers[-1]

    yield make
    for peer in peers:
        peer.close()


@pytest.fixture
def peer(new_peer: Callable[..., Peer]) -> Peer:
    return new_peer()
