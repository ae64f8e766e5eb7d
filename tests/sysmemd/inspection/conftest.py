"""A service with an Inspector to test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from .support import Look


@pytest.fixture
def look() -> Iterator[Look]:
    with closing(Look()) as made:
        yield made
