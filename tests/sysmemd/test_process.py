"""The daemon as a process: it starts, creates removed sockets again or ends, and reads its configuration again."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import shutil
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import trio

from sysmem_protocol.library import Interface
from sysmem_protocol.runtime import service_path
from sysmem_protocol.sysmem2 import Allocator
from sysmemd import process, signals
from sysmemd.config import AccessSection, Config, ConfigError, LogSection
from sysmemd.daemon import socket_permissions
from sysmemd.fair_queue import Queue
from sysmemd.memory.requirements import Findings
from sysmemd.presence import Presence
from sysmemd.process import UnreachableError
from sysmemd.sockets import Listeners, Permissions, RuntimeDirectory, StartError

from ..wire.raw import Wire
from .recording import Line, RecordingLog

pytestmark = [pytest.mark.trio, pytest.mark.usefixtures("descriptor_limit")]


class Entries(list[Line]):
    """Records log events, and signals the next one."""

    changed = trio.Event()

    def append(self, line: Line) -> None:
        super().append(line)
        self.changed.set()


class HeardLog(RecordingLog):
    """A log for whose events tests can wait."""

    entries: Entries

    def __init__(self) -> None:
        super().__init__(Entries())


class Running:
    """A daemon in this process, for whose events tests can wait."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = HeardLog()
        self.result: BaseException | None = None
        self.ended = trio.Event()

    async def said(self, event: str, times: int = 1) -> None:
        """Wait until the log has this many of an event."""
        with trio.fail_after(30):
            while [entry[1] for entry in self.log.entries].count(event) < times:
                self.log.entries.changed = trio.Event()
                await self.log.entries.changed.wait()

    def connect(self) -> None:
        """Connect a client, and disconnect it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(service_path(self.directory, Allocator)))


@asynccontextmanager
async def running(
    directory: Path, reload: process.Reload | None = None, *, alone: bool = False
) -> AsyncIterator[Running]:
    made = Running(directory)
    ready = trio.Event()
    config = Config(runtime_dir=str(directory))

    async def run() -> None:
        try:
            await process.run(config, made.log, on_ready=ready.set, reload=reload, alone=alone)
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


# --- starting ---------------------------------------------------------------------------------------------------------


async def test_what_the_machine_lacks_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = RecordingLog()
    found = Findings(["/proc must be mounted", "more"], [])
    monkeypatch.setattr(process, "examine_kernel", lambda: found)
    with pytest.raises(StartError, match="/proc must be mounted; more"):
        await process.run(Config(runtime_dir=str(tmp_path)), log)
    monkeypatch.setattr(process, "examine_kernel", lambda: Findings([], ["a lock is lost"]))
    monkeypatch.setattr(process, "_raise_descriptor_limit", Mock(side_effect=StartError("enough")))
    with pytest.raises(StartError, match="enough"):
        await process.run(Config(runtime_dir=str(tmp_path)), log)
    [(level, _, fields)] = log.entries
    assert (level, fields) == ("warning", {"difference": "a lock is lost"})


async def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match="can't be used"):
        await process.run(Config(runtime_dir=str(tmp_path / "file")), RecordingLog())


async def test_the_descriptor_limit_is_raised(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard - 1, hard))
    async with running(tmp_path):
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)


@pytest.mark.parametrize("error", [ValueError("not allowed"), OSError(errno.EPERM, "not so")])
async def test_a_limit_that_can_not_be_raised_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def setrlimit(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(resource, "setrlimit", setrlimit)
        async with running(tmp_path) as made:
            pass
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    said = {"limit": soft, "wanted": hard, "reason": str(error)}
    assert ("warning", "the descriptor limit could not be raised", said) in made.log.entries


# --- sockets ----------------------------------------------------------------------------------------------------------


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
            await made.said("a socket was removed: no new client can connect to it", times)
            await made.said("the service sockets were recreated", times)
            made.connect()
            assert set(os.listdir(made.directory)) == {
                i.service_name() for i in socket_permissions(Config())
            }
            if (moved := made.directory.with_name("moved")).exists():
                assert os.listdir(moved) == []
                moved.rmdir()
    assert os.listdir(made.directory) == []


async def test_a_client_that_is_connected_notices_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "run") as made:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(service_path(made.directory, Allocator)))
            shutil.rmtree(made.directory)
            await made.said("the service sockets were recreated")
            with pytest.raises(BlockingIOError):
                sock.recv(1, socket.MSG_DONTWAIT)


async def test_it_ends_when_another_daemon_is_in_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_REMOVAL_SECONDS", 0.5)
    async with running(tmp_path / "run") as made:
        shutil.rmtree(made.directory)
        await made.said("a socket was removed: no new client can connect to it")
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
        await made.said("the service sockets were recreated")
        made.connect()
        assert made.log.events("error").count("removed sockets could not be recreated") == 3
        failures = 1000
        shutil.rmtree(made.directory)
        with trio.fail_after(30):
            await made.ended.wait()
        assert "Too many open files" in str(made.result)


async def test_a_socket_that_was_handed_over_is_only_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the creator of the socket can create it again: a new daemon would get the same one."""
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
            await made.said("a socket was removed: no new client can connect to it")
            [fields] = [entry[2] for entry in made.log.entries if entry[0] == "error"]
            assert fields["path"] == str(given)
            assert fields["remedy"] == "restart the unit or program that created it"
            await trio.testing.wait_all_tasks_blocked()
            assert not made.ended.is_set()


# --- reading the configuration again ----------------------------------------------------------------------------------


class Source:
    """A configuration file, and the objects that depend on it."""

    def __init__(self) -> None:
        self.config = Config()
        self.error: ValueError | None = None
        self.applied: list[Config] = []

    def read(self) -> Config:
        if self.error is not None:
            raise self.error
        return self.config

    def apply(self, config: Config) -> None:
        self.applied.append(config)


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        yield sock


async def told(manager: socket.socket) -> list[str]:
    """Return the assignments of the next message to the service manager."""
    with trio.fail_after(30):
        await trio.lowlevel.wait_readable(manager)
    return manager.recv(4096).decode().split("\n")


async def test_a_hangup_has_it_go_by_the_file_as_it_is_now(
    tmp_path: Path, manager: socket.socket
) -> None:
    source = Source()
    async with running(tmp_path / "run", source) as made:
        assert await told(manager) == ["READY=1"]
        source.config = Config(
            access=AccessSection(allow_users=[]), log=LogSection(level="error"), mode="0666"
        )
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        signal.raise_signal(signal.SIGHUP)
        begun, at = await told(manager)
        after = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        assert begun == "RELOADING=1"
        assert before <= int(at.removeprefix("MONOTONIC_USEC=")) <= after
        assert await told(manager) == ["READY=1", "STATUS=the configuration was reloaded"]
        assert (
            "warning",
            "some changed settings take effect only after a restart",
            {"settings": ["runtime_dir", "mode"]},
        ) in (made.log.entries)
        [applied] = source.applied
        assert applied.log.level == "error"
        made.connect()
        await made.said("a connection was refused: this user may not connect")


async def test_a_file_with_a_fault_changes_nothing(tmp_path: Path, manager: socket.socket) -> None:
    source = Source()
    async with running(tmp_path / "run", source) as made:
        await told(manager)
        source.error = ConfigError("x.toml: not\nTOML")
        signal.raise_signal(signal.SIGHUP)
        await told(manager)
        assert await told(manager) == [
            "READY=1",
            r"STATUS=the configuration could not be reloaded and is unchanged: x.toml: not\nTOML",
        ]
        assert made.log.events("error") == [
            "the configuration could not be reloaded and is unchanged"
        ]
        assert made.log.errors() == [{"reason": "x.toml: not\nTOML", "exc_info": False}]
        assert source.applied == []


async def test_whatever_else_reading_it_fails_with_changes_nothing(tmp_path: Path) -> None:
    class Short(Source):
        def read(self) -> Config:
            raise MemoryError

    async with running(tmp_path / "run", Short()) as made:
        signal.raise_signal(signal.SIGHUP)
        await made.said("the configuration could not be reloaded and is unchanged")
        assert made.log.errors() == [{"reason": "", "exc_info": True}]
        made.connect()


async def test_a_hangup_without_a_file_changes_nothing(tmp_path: Path) -> None:
    async with running(tmp_path / "run") as made:
        signal.raise_signal(signal.SIGHUP)
        await made.said("nothing to reload: the daemon was started without a configuration file")
        made.connect()
        assert not made.ended.is_set()
        assert made.log.events("error") == []


class Short:
    """A kernel without memory for the first call about each descriptor."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self.refused: list[object] = []
        self._call = call

    def __call__(self, fd: Any, *arguments: Any) -> Any:
        fd = fd if isinstance(fd, int) else fd.fileno()
        if fd not in self.refused:
            self.refused.append(fd)
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return self._call(fd, *arguments)


async def test_waits_that_the_kernel_has_no_memory_for_end_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """This covers the waits for signals and for removed sockets. The daemon's own tests cover other waits."""
    monkeypatch.setattr(trio.lowlevel, "wait_readable", Short(trio.lowlevel.wait_readable))
    async with running(tmp_path / "run") as made:
        signal.raise_signal(signal.SIGHUP)
        await made.said("nothing to reload: the daemon was started without a configuration file")
        shutil.rmtree(made.directory)
        await made.said("the service sockets were recreated")
        made.connect()


async def test_signals_that_can_not_be_read_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_EXHAUSTED_SECONDS", 0.0)
    monkeypatch.setattr(signals, "os", SimpleNamespace(**{**vars(os), "read": Short(os.read)}))
    async with running(tmp_path / "run") as made:
        signal.raise_signal(signal.SIGHUP)
        await made.said("received signals cannot be read now")
        await made.said("nothing to reload: the daemon was started without a configuration file")


async def test_a_removal_that_can_not_be_looked_into_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_EXHAUSTED_SECONDS", 0.0)
    right, failing = Presence.missing, iter([True])

    def missing(presence: Presence) -> object:
        if next(failing, False):
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return right(presence)

    monkeypatch.setattr(Presence, "missing", missing)
    async with running(tmp_path / "run") as made:
        shutil.rmtree(made.directory)
        await made.said("cannot determine whether the service sockets still exist")
        await made.said("a socket was removed: no new client can connect to it")
        await made.said("the service sockets were recreated")
        made.connect()


async def test_only_signals_that_are_asked_for_are_received() -> None:
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    with signals.received([signal.SIGHUP, signal.SIGTERM]) as received:
        assert received.take() == []
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGTERM):
            signal.raise_signal(number)
        assert received.take() == [signal.SIGHUP, signal.SIGTERM]
        assert received.take() == []
    signal.signal(signal.SIGUSR1, before)


async def test_a_signal_that_another_thread_gets_is_received(tmp_path: Path) -> None:
    wakes = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(wakes)
    collections, frozen = gc.get_threshold(), gc.get_freeze_count()
    assert collections != process._COLLECTION_THRESHOLDS
    async with running(tmp_path / "run") as made:
        assert gc.get_threshold() == process._COLLECTION_THRESHOLDS
        assert gc.get_freeze_count() > frozen
        with trio.fail_after(30):
            await trio.to_thread.run_sync(
                lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
            )
            await made.ended.wait()
        assert made.result is None
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.set_wakeup_fd(wakes) == wakes
    assert (gc.get_threshold(), gc.get_freeze_count()) == (collections, frozen)


# --- the watchdog -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pid", [None, "own"])
async def test_the_watchdog_hears_of_the_loop(
    tmp_path: Path, manager: socket.socket, monkeypatch: pytest.MonkeyPatch, pid: str | None
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "20000")
    if pid is not None:
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    async with running(tmp_path / "run"):
        assert await told(manager) == ["READY=1"]
        for _ in range(3):
            assert await told(manager) == ["WATCHDOG=1"]
        with contextlib.suppress(BlockingIOError):
            while True:
                manager.recv(100, socket.MSG_DONTWAIT)
        time.sleep(0.1)  # noqa: ASYNC251 # a loop that hangs
        with pytest.raises(BlockingIOError):
            manager.recv(100, socket.MSG_DONTWAIT)
        assert await told(manager) == ["WATCHDOG=1"]


@pytest.mark.parametrize(
    "environ", [{}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"}]
)
async def test_a_watchdog_that_is_not_there_is_not_fed(
    tmp_path: Path,
    manager: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    async with running(tmp_path / "run"):
        assert await told(manager) == ["READY=1"]
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(BlockingIOError):
            manager.recv(100, socket.MSG_DONTWAIT)


async def test_nor_does_the_wait_for_all_that_is_not_a_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that is alone in the loop starts nevertheless."""
    right = Queue.enter_loop
    short = Short(lambda fd, queue: right(queue, fd))
    monkeypatch.setattr(Queue, "enter_loop", lambda queue, fd: short(fd, queue))
    async with running(tmp_path / "run", alone=True) as made:
        await made.said("an error occurred while a user was served")
        with Wire(made.directory) as wire:
            await trio.to_thread.run_sync(lambda: wire.connect().sync())
