"""A daemon for each module, whose descriptors are counted after every test, and a bystander that must not notice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .process import Daemon
from .raw import Wire, constraints


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


class Bystander:
    """Another client, with a collection in use and another one in negotiation."""

    def __init__(self, wire: Wire) -> None:
        self.allocator = wire.connect()
        self.user = self.allocator.non_shared()
        self.user.set_constraints(constraints())
        info = self.user.wait()
        self.memory = info.vmo().map()
        self.memory[:5] = b"quiet"
        self.token = self.allocator.shared()
        self.other = self.token.duplicate_token()
        self.token.sync()
        self.koid = self.other.koid()
        self.pending = self.allocator.bind(self.token)
        self.pending.set_constraints(constraints())
        self.wait = self.pending.request_wait()

    def assert_unharmed(self) -> None:
        self.user.sync()
        self.pending.sync()
        self.other.sync()
        assert self.allocator.validate(self.koid)
        assert self.memory[:5] == b"quiet"
        other = self.allocator.bind(self.other)
        other.set_constraints(constraints())
        assert len(self.pending.wait_answer(self.wait).buffers) == 2
        assert len(other.wait().buffers) == 2


@pytest.fixture
def bystander(daemon: Daemon, unchanged: None) -> Iterator[Bystander]:
    """Check after the test that it had no effect on this client."""
    with Wire(daemon.runtime_dir) as wire:
        bystander = Bystander(wire)
        yield bystander
        bystander.assert_unharmed()
