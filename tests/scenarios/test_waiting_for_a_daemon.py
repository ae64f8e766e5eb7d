"""Connecting to a daemon that has not started yet (`docs/spec/robustness.md`, "Restart")."""

from __future__ import annotations

import asyncio
import math
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path

import anyio
import pytest
import trio

import sysmem
from sysmem import blocking
from sysmem._connect import Retries
from sysmem.testing import Sysmemd

from .scenario import ENOUGH, buffers, participants, pool, vmo_of

SOCKET = "fuchsia.sysmem2.Allocator"
FACES = ["blocking", "trio", "asyncio"]


def works(runtime_dir: Path, face: str, wait: float) -> int:
    """Connect within this time and use the connection. Return the id of a collection."""

    async def main() -> int:
        async with sysmem.connect(runtime_dir, wait=wait) as allocator:
            collection = await allocator.allocate_non_shared_collection()
            async with collection:
                return await collection.get_buffer_collection_id()

    if face == "trio":
        return trio.run(main)
    if face == "asyncio":
        return asyncio.run(main())
    with (
        blocking.connect(runtime_dir, wait=wait) as allocator,
        allocator.allocate_non_shared_collection() as collection,
    ):
        return collection.get_buffer_collection_id()


@pytest.fixture
def tries(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """An event that is set when an attempt to connect has failed and another one will follow."""
    failed = threading.Event()
    pause = Retries.pause

    def noting(self: Retries) -> float | None:
        failed.set()
        return pause(self)

    monkeypatch.setattr(Retries, "pause", noting)
    return failed


@contextmanager
def begun(tries: threading.Event, runtime_dir: Path, face: str) -> Iterator[Future[int]]:
    """A thread that tries to connect and has not found a daemon yet."""
    future = pool.submit(works, runtime_dir, face, ENOUGH)
    assert tries.wait(ENOUGH)
    assert not future.done()
    yield future
    assert future.result(ENOUGH) > 0


@pytest.mark.parametrize("face", FACES)
def test_a_client_connects_as_soon_as_the_daemon_is_started(
    sysmemd: Sysmemd, tries: threading.Event, face: str
) -> None:
    sysmemd.stop()
    sysmemd.runtime_dir.rmdir()
    with begun(tries, sysmemd.runtime_dir, face):
        sysmemd.start()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_a_client_connects_to_the_daemon_that_comes_after_another(
    sysmemd: Sysmemd, tries: threading.Event, stop: signal.Signals
) -> None:
    sysmemd.process.send_signal(stop)  # it serves no new clients
    sysmemd.process.wait(ENOUGH)
    with begun(tries, sysmemd.runtime_dir, "blocking"):
        sysmemd.start()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGKILL])
def test_a_restart_ends_trees_and_leaves_buffers_to_those_who_have_them(
    sysmemd: Sysmemd, stop: signal.Signals
) -> None:
    """The new daemon knows nothing about the old buffers."""
    with (
        blocking.connect(sysmemd.runtime_dir) as allocator,
        participants(allocator, 2) as (gate, collections),
    ):
        for each in collections:
            each.set_constraints(buffers())
        gate.release()
        infos = [each.wait_for_all_buffers_allocated(timeout=ENOUGH) for each in collections]
        sysmemd.process.send_signal(stop)
        sysmemd.process.wait(ENOUGH)
        assert all(each.wait_closed(ENOUGH) for each in collections)
    vmos = [vmo_of(info) for info in infos]
    with vmos[0].map() as written, vmos[1].map() as read:
        written[:5] = b"after"
        assert bytes(read[:5]) == b"after"
    sysmemd.start()
    with blocking.connect(sysmemd.runtime_dir) as allocator:
        with pytest.raises(sysmem.SysmemError) as unknown:
            allocator.get_vmo_info(vmos[0])
        assert unknown.value.error == sysmem.Error.NOT_FOUND
    for info in infos:
        info.close()


@pytest.mark.parametrize("face", FACES)
def test_a_daemon_that_is_there_is_not_waited_for(
    daemon: Sysmemd, tries: threading.Event, face: str
) -> None:
    for wait in (0, 1.5, math.inf):
        assert works(daemon.runtime_dir, face, wait) > 0
    assert not tries.is_set()


@pytest.mark.parametrize("face", FACES)
def test_without_a_daemon_in_time_the_error_is_the_same_as_without_waiting(
    tmp_path: Path, tries: threading.Event, face: str
) -> None:
    for wait in (0.05, 0, -1):
        tries.clear()
        with pytest.raises(sysmem.DaemonUnavailableError, match=f"{tmp_path}/{SOCKET}: No such"):
            works(tmp_path, face, wait)
        assert tries.is_set()


@pytest.mark.parametrize("face", FACES)
def test_a_time_that_is_no_number_of_seconds_is_refused(tmp_path: Path, face: str) -> None:
    with pytest.raises(ValueError, match="NaN"):
        works(tmp_path, face, math.nan)
    with pytest.raises(TypeError):
        works(tmp_path, face, "soon")  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize("face", FACES)
def test_a_socket_at_which_nobody_answers_is_no_daemon(tmp_path: Path, face: str) -> None:
    """The socket belongs to a service manager or a stopped daemon: the kernel accepts connections for it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(tmp_path / SOCKET))
        listener.listen()
        with pytest.raises(
            sysmem.DaemonUnavailableError, match="no sysmem daemon answered in time"
        ):
            works(tmp_path, face, 0.05)


@pytest.mark.parametrize("face", FACES)
def test_a_daemon_that_closes_the_connection_is_asked_again(
    sysmemd: Sysmemd, tries: threading.Event, face: str
) -> None:
    """For example, the daemon is about to end."""
    sysmemd.stop()
    address = sysmemd.runtime_dir / SOCKET
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(address))
        listener.listen()
        future = pool.submit(works, sysmemd.runtime_dir, face, ENOUGH)
        for _ in range(2):
            assert not future.done()
            listener.accept()[0].close()
        assert tries.wait(ENOUGH)
        address.unlink()
        sysmemd.start()
    assert future.result(ENOUGH) > 0


def test_a_task_that_waits_for_a_daemon_can_be_cancelled(tmp_path: Path) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            with anyio.move_on_after(0.05) as scope:
                await sysmem.connect(tmp_path, wait=ENOUGH)
            assert scope.cancelled_caught
            listener.bind(str(tmp_path / SOCKET))
            listener.listen()
            with anyio.move_on_after(0.05) as scope:
                await sysmem.connect(tmp_path, wait=ENOUGH)
            assert scope.cancelled_caught

    trio.run(main)
    (tmp_path / SOCKET).unlink()
    asyncio.run(main())


def test_attempts_are_frequent_at_first_and_few_later() -> None:
    retries = Retries(math.inf)
    pauses = [retries.pause() or 0 for _ in range(40)]
    assert pauses[0] < 0.003
    assert all(0.05 <= pause <= 0.1 for pause in pauses[10:])
    assert Retries(0).pause() is None
    assert 0 < (Retries(0.001).pause() or 0) <= 0.002


def test_both_ways_of_asking_give_the_allocator(daemon: Sysmemd) -> None:
    async def main(connect: Callable[..., sysmem.Allocator]) -> None:
        with await connect(daemon.runtime_dir, wait=ENOUGH, name="a", id=1) as allocator:
            assert isinstance(allocator, sysmem.Allocator)
        async with connect(daemon.runtime_dir, wait=ENOUGH) as allocator:
            assert isinstance(allocator, sysmem.Allocator)
        assert allocator.closed

    trio.run(main, sysmem.connect)
