"""A daemon whose control group limits memory or threads (`docs/spec/robustness.md`, "Short of everything")."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conftest import Bystander
from .process import Daemon
from .raw import NO_MEMORY, Allocator, Info, PeerClosed, Refused, Wire, constraints

MIB = 1024 * 1024
#: The maximum memory that the daemon itself needs in its group, and the remainder for buffers.
OWN, ROOM, BUFFER = 64 * MIB, 64 * MIB, 8 * MIB


@contextlib.contextmanager
def limited(controller: str, value: int, *settings: str) -> Iterator[Path]:
    """Return a new group with a limit of one of these names, in version 1 or 2 of control groups."""
    name = f"sysmem-test-{os.getpid()}"
    for group in (Path("/sys/fs/cgroup", controller, name), Path("/sys/fs/cgroup", name)):
        with contextlib.suppress(OSError):
            group.mkdir()
            for limit in settings:
                if (group / limit).exists():
                    (group / limit).write_text(str(value))
                    try:
                        yield group
                    finally:
                        group.rmdir()
                    return
            group.rmdir()
    pytest.skip(f"no control group for {controller} can be made here")


def joining(group: Path) -> list[str]:
    """Return the words before the command of a process that joins a group first."""
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]


def fill(allocator: Allocator) -> None:
    """Request more buffers at once than there is room for.

    Some requests succeed completely, and the others are refused.
    """
    collections = [allocator.non_shared() for _ in range(2 * ROOM // BUFFER)]
    for collection in collections:
        collection.set_constraints(constraints(size=BUFFER))
    waits = [collection.request_wait() for collection in collections]
    got: list[Info] = []
    errors: set[int] = set()
    for collection, wait in zip(collections, waits, strict=True):
        try:
            got.append(collection.wait_answer(wait))
        except PeerClosed:  # it was refused before it waited
            errors.add(NO_MEMORY)
        except Refused as refused:
            errors.add(refused.error)
    assert got
    assert errors == {NO_MEMORY}
    for info in got:
        memory = info.vmo().map()
        memory[:BUFFER] = b"x" * BUFFER
        memory.close()
        info.close()
    for collection in collections:
        collection.close()


def test_a_group_that_is_full_is_no_memory(tmp_path: Path) -> None:
    """The kernel would kill the daemon if it asked for more."""
    (tmp_path / "sysmemd.toml").write_text('[memory]\nallocation = "eager"')
    arguments = ("--config", str(tmp_path / "sysmemd.toml"))
    with limited("memory", OWN + ROOM, "memory.limit_in_bytes", "memory.max") as group:
        daemon = Daemon(tmp_path / "own", *arguments, prefix=joining(group))
        try:
            with Wire(daemon.runtime_dir) as wire:
                bystander, allocator = Bystander(wire), wire.connect()
                for _ in range(2):
                    fill(allocator)
                bystander.assert_unharmed()
            assert daemon.wait_log(lambda event: "cannot be reserved" in str(event))
            daemon.assert_nothing_leaked()
            daemon.stop()
        finally:
            daemon.kill()


def test_a_group_without_another_thread_is_served(tmp_path: Path) -> None:
    with limited("pids", 1, "pids.max") as group:
        daemon = Daemon(tmp_path / "own", prefix=joining(group))
        try:
            with Wire(daemon.runtime_dir) as wire:
                bystander = Bystander(wire)
                for _ in range(8):  # a thread closes the descriptors of garbage, if there is one
                    allocator = wire.connect()
                    near, far = socket.socketpair()
                    with near, far:
                        allocator.send_bytes(b"garbage", [near])
                    allocator.assert_closes()
                bystander.assert_unharmed()
            daemon.assert_nothing_leaked()
            daemon.stop()
        finally:
            daemon.kill()
