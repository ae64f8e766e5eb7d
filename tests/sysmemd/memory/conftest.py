"""A memory to test, and other processes that hold its buffers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from .harness import Bench, Peer


@pytest.fixture
def bench() -> Iterator[Bench]:
    with closing(Bench()) as made:
        yield made


@pytest.fixture
def new_peer() -> Iterator[Callable[..., Peer]]:
    with ExitStack() as stack:

        def make(user: int | None = None) -> Peer:
            return stack.enter_context(Peer(user))

        yield make


@pytest.fixture
def peer(new_peer: Callable[..., Peer]) -> Peer:
    return new_peer()
