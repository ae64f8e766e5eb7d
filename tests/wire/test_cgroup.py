"""A daemon whose control group limits memory or threads (`docs/spec/robustness.md`, "Short of everything")."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from .bystander import Bystander
from .process import Daemon
from .protocol import NO_MEMORY, SAME_RIGHTS, constraints
from .raw import Allocator, Info, PeerClosed, Refused, Wire, until

MIB = 1024 * 1024
#: The maximum memory that the daemon itself needs in its group and keeps free, and the remainder for buffers.
OWN, ROOM, BUFFER = 96 * MIB, 64 * MIB, 8 * MIB


def new_group(controller: str, value: int, *settings: str) -> Path | None:
    """Return a new group with a limit of one of these names, in version 1 or 2 of control groups."""
    name = f"sysmem-test-{os.getpid()}"
    for group in (Path("/sys/fs/cgroup", controller, name), Path("/sys/fs/cgroup", name)):
        with contextlib.suppress(OSError):
            group.mkdir()
            for limit in settings:
                if (group / limit).exists():
                    (group / limit).write_text(str(value))
                    return group
            group.rmdir()
    return None


@contextlib.contextmanager
def limited(controller: str, value: int, *settings: str) -> Iterator[Path]:
    """Create a group for the block. Skip the test if that is not possible."""
    group = new_group(controller, value, *settings)
    if group is None:
        pytest.skip(f"no control group for {controller} can be made here")
    try:
        yield group
    finally:
        group.rmdir()


def joining(group: Path) -> list[str]:
    """Return the words before the command of a process that joins a group first."""
    return ["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "sh"]


def fill(allocator: Allocator) -> None:
    """Request more buffers at once than there is room for, and then thousands of nodes.

    Some requests succeed completely, and the others are refused.
    """
    collections = [allocator.non_shared() for _ in range(3 * ROOM // BUFFER)]
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
    tokens = [allocator.shared() for _ in range(64)]
    made = [end for token in tokens for end in token.duplicate_sync([SAME_RIGHTS] * 60)]
    for end in (*made, *tokens):
        end.close()
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
                fill(allocator)
                for _ in until():  # the memory is free again soon
                    with contextlib.suppress(PeerClosed):
                        allocator.non_shared().allocate(size=4 * BUFFER).close()
                        break
                bystander.assert_finishes()
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
                bystander.assert_finishes()
            daemon.assert_nothing_leaked()
            daemon.stop()
        finally:
            daemon.kill()
