"""A service to test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from sysmem_protocol.library import Interface
from sysmem_protocol.sysmem2 import BufferCollection
from sysmemd.config import Limits

from .line import Line
from .support import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.close()


@pytest.fixture
def new_line() -> Iterator[Callable[..., Line]]:
    made: list[Line] = []

    def make(interface: type[Interface] = BufferCollection, **limits: int) -> Line:
        made.append(Line(interface, Limits(**limits)))
        return made[-1]

    yield make
    for line in made:
        line.close()


@pytest.fixture
def line(new_line: Callable[..., Line]) -> Line:
    return new_line()
