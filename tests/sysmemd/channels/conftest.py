"""A service to test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from sysmem_protocol.library import Interface
from sysmem_protocol.sysmem2 import BufferCollection
from sysmemd.config import Limits

from .line import Line
from .support import Bench


@pytest.fixture
def bench() -> Iterator[Bench]:
    with closing(Bench()) as made:
        yield made


@pytest.fixture
def new_line() -> Iterator[Callable[..., Line]]:
    with ExitStack() as stack:

        def make(interface: type[Interface] = BufferCollection, **limits: int) -> Line:
            return stack.enter_context(closing(Line(interface, Limits(**limits))))

        yield make


@pytest.fixture
def line(new_line: Callable[..., Line]) -> Line:
    return new_line()
