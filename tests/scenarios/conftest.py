"""One daemon for a file of scenarios, an allocator for each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sysmem import blocking

from .scenario import Daemon


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon without a configuration file; found without a leak at the end of the file."""
    running = Daemon(tmp_path_factory.mktemp("sysmem"))
    yield running
    running.stop()


@pytest.fixture
def client(daemon: Daemon) -> Iterator[blocking.Allocator]:
    """A client's connection to the file's daemon."""
    with blocking.connect(daemon.runtime_dir, name="scenario", id=7) as connected:
        yield connected
