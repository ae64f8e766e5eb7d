"""A daemon for each module, whose descriptors are counted after every test, and a bystander that must not notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .bystander import Bystander
from .process import Daemon
from .raw import Wire


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path_factory.mktemp("daemon"))
    try:
        yield daemon
        daemon.stop()
    finally:
        daemon.kill()


@pytest.fixture
def unchanged(daemon: Daemon) -> Iterator[None]:
    """Check that the daemon has no additional descriptors after the test and has logged no internal error."""
    yield
    daemon.assert_nothing_leaked()
    daemon.assert_log_is_sound()


@pytest.fixture
def wire(daemon: Daemon, bystander: Bystander) -> Iterator[Wire]:
    """Connections to the daemon that end with the test and must not harm the bystander."""
    with Wire(daemon.runtime_dir) as wire:
        yield wire


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Start a daemon for this test only. If it still runs at the end, it is stopped and checked."""
    started: list[Daemon] = []

    def start(*arguments: str, directory: Path = tmp_path / "own", **more: Any) -> Daemon:
        daemon = Daemon(directory, *arguments, **more)
        started.append(daemon)
        return daemon

    try:
        yield start
        for daemon in started:
            if daemon.process.poll() is None:
                daemon.assert_nothing_leaked()
                daemon.stop()
    finally:
        for daemon in started:
            daemon.kill()


@pytest.fixture
def bystander(daemon: Daemon, unchanged: None) -> Iterator[Bystander]:
    """Check after the test that it had no effect on this client."""
    with Wire(daemon.runtime_dir) as wire:
        bystander = Bystander(wire)
        yield bystander
        bystander.assert_finishes()
