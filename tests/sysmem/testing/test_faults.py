"""Faults of the daemon: their effect on participants, and the daemon's normal behaviour after them."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

import sysmem
from sysmem import blocking, testing
from sysmem._process import process_name
from sysmem.testing import Sysmemd
from sysmem_protocol import sysmem2
from sysmem_protocol.faults import errno_named
from sysmem_protocol.library import Interface
from sysmem_protocol.testing import End, Testing

C = sysmem.constraints(cpu="read, write", size_bytes=4096, hold=1)


def allocated(allocator: blocking.Allocator, table: sysmem.BufferCollectionConstraints = C) -> None:
    """Have allocated buffers within the block."""
    with allocator.allocate_non_shared_collection() as collection:
        collection.set_constraints(table)
        collection.wait_for_all_buffers_allocated(timeout=20).close()
        collection.release()


def refusal(allocator: blocking.Allocator) -> sysmem.Error | int:
    """Return the reason why a collection gets no buffers."""
    token = allocator.allocate_shared_collection()
    [other] = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
    with allocator.bind_shared_collection(token) as collection:
        collection.set_constraints(C)
        with pytest.raises(TimeoutError):
            collection.wait_for_all_buffers_allocated(timeout=0)
        collection.sync()
        other.release()
        with pytest.raises(sysmem.SysmemError) as refused:
            collection.wait_for_all_buffers_allocated(timeout=20)
        return refused.value.error


def test_a_daemon_that_was_not_started_for_tests_has_none(sysmemd: Sysmemd) -> None:
    from sysmemd import daemon

    assert (sysmemd.runtime_dir / Testing.service_name()).is_socket()
    assert Testing not in daemon.SERVICES
    assert Testing not in daemon.Parts().services


def test_the_next_allocation_is_refused(
    sysmemd_session: Sysmemd, allocator: blocking.Allocator
) -> None:
    sysmemd_session.faults.refuse_next_allocation()
    assert refusal(allocator) is sysmem.Error.NO_MEMORY
    sysmemd_session.wait_for_log("a test refused this allocation")
    allocated(allocator)
    sysmemd_session.faults.refuse_next_allocation("CONSTRAINTS_INTERSECTION_EMPTY", times=2)
    for _ in range(2):
        assert refusal(allocator) is sysmem.Error.CONSTRAINTS_INTERSECTION_EMPTY
    allocated(allocator)


def test_messages_of_a_method_are_late(
    sysmemd_session: Sysmemd, allocator: blocking.Allocator
) -> None:
    faults = sysmemd_session.faults
    faults.delay("BufferCollection.SetConstraints", 0.1)
    began = time.monotonic()
    allocated(allocator)
    assert time.monotonic() - began >= 0.1
    faults.delay("BufferCollection.SetConstraints", 0)


def test_a_composed_method_is_late_on_the_channels_of_one_protocol(
    sysmemd_session: Sysmemd, allocator: blocking.Allocator
) -> None:
    sysmemd_session.faults.delay("fuchsia.sysmem2/BufferCollectionToken.Sync", 60)
    with (
        allocator.allocate_non_shared_collection() as collection,
        allocator.allocate_shared_collection() as token,
    ):
        collection.sync()
        with pytest.raises(TimeoutError):
            token.sync(timeout=0.05)
        sysmemd_session.faults.close("python")
    sysmemd_session.faults.clear()


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda faults: faults.delay("Node.Sink", 1), "method 'Node.Sink'; similar names: Node.S"),
        (
            lambda faults: faults.refuse_next_allocation("NO_MEM"),
            "error 'NO_MEM'; similar names: NO_MEMORY",
        ),
        (
            lambda faults: faults.fail_syscall("open", "EMFIL"),
            "errno 'EMFIL'; similar names: EMFILE",
        ),
    ],
)
def test_an_unknown_name_is_refused_with_similar_ones(
    sysmemd_session: Sysmemd, call: Callable[[Any], None], name: str
) -> None:
    with testing.blocking.daemon() as d:
        for faults in (sysmemd_session.faults, d.faults):
            with pytest.raises(ValueError, match=f"there is no {name}"):
                call(faults)


@pytest.mark.parametrize("name", ["EMFILE", "EWOULDBLOCK", "EDEADLK", "EDEADLOCK", "EOPNOTSUPP"])
def test_an_error_of_the_system_has_each_of_its_names(name: str) -> None:
    assert errno_named(name) == getattr(errno, name)


def test_a_late_message_is_dropped_with_its_channel(
    sysmemd_session: Sysmemd, allocator: blocking.Allocator
) -> None:
    sysmemd_session.faults.delay("Node.Sync", 60)
    with allocator.allocate_non_shared_collection() as collection, pytest.raises(TimeoutError):
        collection.sync(timeout=0.05)
    sysmemd_session.faults.close("python")
    sysmemd_session.faults.delay("Node.Sync", 0)


def test_a_late_message_of_a_token_makes_its_turn_in_late(
    sysmemd_session: Sysmemd, allocator: blocking.Allocator
) -> None:
    sysmemd_session.faults.delay("Node.SetName", 0.1)
    began = time.monotonic()
    token = allocator.allocate_shared_collection()
    token.set_name(1, "late")
    with allocator.bind_shared_collection(token) as collection:
        collection.sync(timeout=20)
    assert time.monotonic() - began >= 0.1


def test_a_clients_channels_are_closed(
    sysmemd_session: Sysmemd, allocator: blocking.Allocator
) -> None:
    with (
        blocking.connect(sysmemd_session.runtime_dir, name="victim") as victim,
        victim.allocate_shared_collection() as token,
    ):
        token.sync()
        assert sysmemd_session.faults.close("victim") == 2
        assert token.wait_closed(20)
        assert victim.wait_closed(20)
    assert sysmemd_session.faults.close("nobody") == 0
    allocated(allocator)


@pytest.mark.parametrize("name", ["memfd_create", "inotify_add_watch", "open"])
def test_a_system_call_fails_until_it_is_let_work(
    sysmemd_session: Sysmemd, allocator: blocking.Allocator, name: str
) -> None:
    sysmemd_session.faults.fail_syscall(name, "ENOSPC", times=0)
    for _ in range(3):
        assert refusal(allocator) is sysmem.Error.NO_MEMORY
    sysmemd_session.faults.clear()
    allocated(allocator)


def test_a_system_call_fails_once(sysmemd_session: Sysmemd, allocator: blocking.Allocator) -> None:
    sysmemd_session.faults.fail_syscall("memfd_create", "EMFILE")
    assert refusal(allocator) is sysmem.Error.NO_MEMORY
    allocated(allocator)


@pytest.mark.parametrize("name", ["recvmsg", "sendmsg"])
def test_a_channel_whose_system_call_fails_closes(
    sysmemd_session: Sysmemd, allocator: blocking.Allocator, name: str
) -> None:
    with allocator.allocate_shared_collection() as token:
        token.sync()
        sysmemd_session.faults.fail_syscall(name, "ENOMEM")
        with pytest.raises(sysmem.PeerClosedError, match="Cannot allocate memory"):
            token.sync(timeout=20)
    sysmemd_session.faults.clear()
    allocated(allocator)


def test_a_system_call_that_cannot_fail_is_refused(sysmemd_session: Sysmemd) -> None:
    with pytest.raises(sysmem.SysmemError) as refused:
        sysmemd_session.faults.fail_syscall("getpid", "EPERM")
    assert refused.value.error is sysmem.Error.NOT_FOUND


def test_a_heap_is_limited(sysmemd: Sysmemd, allocator: blocking.Allocator) -> None:
    heap = sysmem.SYSTEM_RAM_HEAP.heap_type
    assert heap is not None
    sysmemd.faults.heap_limit(heap, 4095)
    assert refusal(allocator) is sysmem.Error.NO_MEMORY
    sysmemd.faults.heap_limit(heap, None)
    allocated(allocator)
    with pytest.raises(sysmem.SysmemError):
        sysmemd.faults.heap_limit("no such heap", 1)


def test_the_daemon_is_killed_stopped_and_comes_back(sysmemd: Sysmemd) -> None:
    with blocking.connect(sysmemd.runtime_dir) as allocator:
        sysmemd.faults.kill()
        assert allocator.wait_closed(20)
    with pytest.raises(sysmem.DaemonUnavailableError):
        blocking.connect(sysmemd.runtime_dir)
    for _ in range(2):
        sysmemd.faults.restart()
        with blocking.connect(sysmemd.runtime_dir) as allocator:
            allocated(allocator)
    sysmemd.faults.stop()
    assert sysmemd.process.returncode == 0


def test_a_daemon_that_was_killed_is_told(sysmemd: Sysmemd) -> None:
    sysmemd.faults.kill()
    assert "the daemon doesn't answer" in dict(sysmemd.story())
    with pytest.raises(AssertionError, match="sysmemd ended with status -9"):
        sysmemd.stop()


def test_a_daemon_that_does_not_stop_is_killed_and_told(
    sysmemd: Sysmemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    sysmemd.faults.pause()
    monkeypatch.setattr("sysmem.testing._sysmemd.PATIENCE_SECONDS", 0.0)
    with pytest.raises(AssertionError, match="sysmemd didn't stop on SIGTERM"):
        sysmemd.stop()
    assert sysmemd.process.wait(20) == -signal.SIGKILL


def test_a_leak_of_a_daemon_that_does_not_answer_is_told(
    sysmemd: Sysmemd, allocator: blocking.Allocator, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocator.validate_buffer_collection_token(0)
    sysmemd.faults.pause()
    with monkeypatch.context() as patch:
        patch.setattr("sysmem.testing._sysmemd.PATIENCE_SECONDS", 0.0)
        with pytest.raises(
            AssertionError, match=r"(?s)holds 1 descriptors more .* leaks: socket:\["
        ):
            sysmemd.check_for_leaks()
    sysmemd.faults.resume()


def test_sockets_that_a_daemon_leaves_are_told(sysmemd: Sysmemd) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(sysmemd.runtime_dir / "left"))
    with pytest.raises(AssertionError, match=r"sysmemd left sockets behind: left$"):
        sysmemd.stop()


def test_the_daemon_pauses(sysmemd: Sysmemd, allocator: blocking.Allocator) -> None:
    sysmemd.faults.pause()
    with pytest.raises(TimeoutError):
        allocator.validate_buffer_collection_token(0, timeout=0.05)
    sysmemd.faults.resume()
    assert not allocator.validate_buffer_collection_token(0, timeout=20)


@pytest.mark.parametrize("interface", [Testing, sysmem2.Allocator])
def test_a_channel_with_an_invalid_message_closes(
    sysmemd_session: Sysmemd, allocator: blocking.Allocator, interface: type[Interface]
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(20)
        sock.connect(os.fspath(sysmemd_session.runtime_dir / interface.service_name()))
        sock.send(b"nonsense")
        assert sock.recv(100) == b""
    allocated(allocator)


# --- clients that end at a message ----------------------------------------------------------------------------------


MINE = [
    "Allocator.SetDebugClientInfo",
    "Explained.SetExplain",
    "Allocator.AllocateNonSharedCollection",
    "BufferCollection.SetConstraints",
    "BufferCollection.WaitForAllBuffersAllocated",
    "Node.Release",
]


def test_messages_are_told_by_process(sysmemd: Sysmemd, allocator: blocking.Allocator) -> None:
    allocated(allocator)
    allocator.validate_buffer_collection_token(0)
    [told] = sysmemd.faults.messages()
    assert told["pid"] == os.getpid()
    assert told["name"] == process_name()
    assert told["messages"][:-1] == MINE
    assert not told["ended"]


def take_part(runtime_dir: str) -> None:
    """The function of a process that is ended from outside."""
    with blocking.connect(runtime_dir, name="victim") as allocator:
        allocated(allocator)
        allocator.wait_closed()


@pytest.mark.parametrize("end", End)
@pytest.mark.parametrize("message", range(1, len(MINE)))
def test_a_client_ends_at_a_message(
    sysmemd_session: Sysmemd, sysmem_zygote: testing.Zygote, message: int, end: End
) -> None:
    faults = sysmemd_session.faults
    faults.end_at("victim", message, end)
    victim = sysmem_zygote.start(f"{__name__}:take_part", str(sysmemd_session.runtime_dir))
    with contextlib.closing(victim):
        if end is End.KILLED:
            assert victim.wait(20) == -signal.SIGKILL
        elif end is End.CLOSED:
            assert victim.wait(20) != -signal.SIGKILL
        else:
            while (
                not Path(f"/proc/{victim.pid}/stat").read_text().rpartition(") ")[2].startswith("T")
            ):
                time.sleep(0.001)
    [told] = [each for each in faults.messages() if each["pid"] == victim.pid]
    assert told["ended"]
    assert told["messages"] == MINE[:message]


# --- in the test's own process --------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_faults_of_a_daemon_in_the_tests_loop(autojump_clock: MockClock) -> None:
    async with testing.daemon() as d, d.connect() as allocator:
        d.faults.delay("Node.Sync", 3600)
        d.faults.refuse_next_allocation(sysmem.Error.NO_MEMORY)
        began = trio.current_time()
        async with await allocator.allocate_non_shared_collection() as collection:
            await collection.sync()
            assert trio.current_time() - began == pytest.approx(3600, abs=1)
            await collection.set_constraints(C)
            assert await collection.wait_closed()
        d.faults.fail_syscall("memfd_create", "EMFILE", times=0)
        async with await allocator.allocate_non_shared_collection() as collection:
            await collection.set_constraints(C)
            assert await collection.wait_closed()
    async with testing.daemon() as d, d.connect() as allocator:
        collection = await allocator.allocate_non_shared_collection()
        await collection.set_constraints(C)
        (await collection.wait_for_all_buffers_allocated()).close()
        collection.close()


@pytest.mark.trio
async def test_a_late_message_is_dropped_when_the_daemon_stops() -> None:
    """Its descriptors close, so the client's other end does too."""
    async with testing.daemon() as d, d.connect() as allocator:
        d.faults.delay("Allocator.AllocateSharedCollection", 3600)
        token = await allocator.allocate_shared_collection()
        await wait_all_tasks_blocked()
    assert await token.wait_closed()
    token.close()


def test_faults_of_a_daemon_in_a_thread() -> None:
    with testing.blocking.daemon() as d, d.connect(name="mine") as allocator:
        d.faults.refuse_next_allocation()
        assert refusal(allocator) is sysmem.Error.NO_MEMORY
        allocated(allocator)
        assert d.faults.close("mine") == 1
        assert allocator.wait_closed(20)
