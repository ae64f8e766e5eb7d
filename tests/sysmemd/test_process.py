"""The daemon as a process: sockets that are taken away are made again, or it ends."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio

from sysmem_protocol.library import Interface
from sysmem_protocol.runtime import service_path
from sysmem_protocol.sysmem2 import Allocator
from sysmemd import process
from sysmemd.config import Config
from sysmemd.process import UnreachableError
from sysmemd.sockets import Listeners, Permissions, RuntimeDirectory

from .test_daemon import Log

pytestmark = pytest.mark.trio


class Entries(list[tuple[str, str, dict[str, Any]]]):
    """What was logged; tells of the next one."""

    changed = trio.Event()

    def append(self, entry: tuple[str, str, dict[str, Any]]) -> None:
        super().append(entry)
        self.changed.set()


class HeardLog(Log):
    """A log that can be waited for."""

    def __init__(self) -> None:
        self.entries: Entries = Entries()


class Running:
    """A daemon in this process; what it says can be waited for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = HeardLog()
        self.result: BaseException | None = None
        self.ended = trio.Event()

    async def said(self, event: str, times: int = 1) -> None:
        """Wait until the log has had an event so often."""
        with trio.fail_after(30):
            while [entry[1] for entry in self.log.entries].count(event) < times:
                self.log.entries.changed = trio.Event()
                await self.log.entries.changed.wait()

    def connect(self) -> None:
        """Connect a client, and have it go away again."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(service_path(self.directory, Allocator)))


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Running]:
    made = Running(directory)
    ready = trio.Event()

    async def run() -> None:
        try:
            await process.run(Config(runtime_dir=str(directory)), made.log, on_ready=ready.set)
        except UnreachableError as error:
            made.result = error
        made.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await ready.wait()
        yield made
        nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_REMOVAL_SECONDS", 0.01)


@pytest.mark.parametrize(
    "take_away",
    [
        shutil.rmtree,
        lambda directory: service_path(directory, Allocator).unlink(),
        lambda directory: directory.rename(directory.with_name("moved")),
        lambda directory: shutil.rmtree(directory.parent),
    ],
    ids=["directory", "socket", "moved", "all above"],
)
async def test_sockets_that_were_taken_away_are_made_again(
    tmp_path: Path, take_away: Callable[[Path], object]
) -> None:
    async with running(tmp_path / "above" / "run") as made:
        for times in (1, 2):
            take_away(made.directory)
            await made.said("no new client can connect: a socket is gone", times)
            await made.said("the service sockets are there again", times)
            made.connect()
            assert os.listdir(made.directory) == [Allocator.service_name()]
            if (moved := made.directory.with_name("moved")).exists():
                assert os.listdir(moved) == []
                moved.rmdir()
    assert os.listdir(made.directory) == []


async def test_a_client_that_is_connected_notices_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "run") as made:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(service_path(made.directory, Allocator)))
            shutil.rmtree(made.directory)
            await made.said("the service sockets are there again")
            with pytest.raises(BlockingIOError):
                sock.recv(1, socket.MSG_DONTWAIT)


async def test_it_ends_when_another_daemon_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_REMOVAL_SECONDS", 0.5)
    async with running(tmp_path / "run") as made:
        shutil.rmtree(made.directory)
        await made.said("no new client can connect: a socket is gone")
        second = Listeners({Allocator: Permissions()}, made.directory, environ={}, log=made.log)
        with closing(second), trio.fail_after(30):
            await made.ended.wait()
            made.connect()
            assert str(made.result) == f"another sysmemd serves {made.directory}"


async def test_a_passing_shortage_is_waited_out_and_a_lasting_one_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_EXHAUSTED_SECONDS", 0.01)
    really_listen, failures = RuntimeDirectory.listen, 3

    def listen(self: RuntimeDirectory, interface: type[Interface]) -> socket.socket:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise OSError(errno.EMFILE, "Too many open files")
        return really_listen(self, interface)

    async with running(tmp_path / "run") as made:
        monkeypatch.setattr(RuntimeDirectory, "listen", listen)
        shutil.rmtree(made.directory)
        await made.said("the service sockets are there again")
        made.connect()
        assert made.log.events("error").count("the service sockets can't be made again yet") == 3
        failures = 1000
        shutil.rmtree(made.directory)
        with trio.fail_after(30):
            await made.ended.wait()
        assert "Too many open files" in str(made.result)


async def test_a_socket_that_was_handed_over_is_only_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only who made it can make it again: a new daemon would get the same one."""
    given = tmp_path / "given"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.bind(str(given))
        sock.listen()
        monkeypatch.setattr(
            "sysmemd.sockets.inherited",
            lambda *_: {Allocator.service_name(): socket.socket(fileno=os.dup(sock.fileno()))},
        )
        async with running(tmp_path / "run") as made:
            given.unlink()
            await made.said("no new client can connect: a socket is gone")
            [fields] = [entry[2] for entry in made.log.entries if entry[0] == "error"]
            assert fields["path"] == str(given)
            assert fields["remedy"] == "restart the unit or program that made it"
            await trio.testing.wait_all_tasks_blocked()
            assert not made.ended.is_set()
