"""Which users may connect, according to the kernel's credentials."""

from __future__ import annotations

import errno
import os
import pwd
import socket
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path
from typing import NoReturn

import pytest

from sysmemd.access import Access, admit, groups_of, peer_of
from sysmemd.config import AccessSection
from sysmemd.ports import Peer
from sysmemd.refusals import Refusals

from ..users import as_root
from .memory.harness import TestClock
from .recording import RecordingLog

CAMERA = Peer(pid=5, uid=1000, gid=1000)


def allows(section: AccessSection, groups: Collection[int] = ()) -> bool:
    return Access.of(section).allows(CAMERA, lambda: groups)


def test_where_nothing_is_said_everybody_may_whom_the_socket_lets_in() -> None:
    assert allows(AccessSection())


@pytest.mark.parametrize(
    ("users", "groups", "allowed"),
    [
        ([1000], None, True),
        ([1001], None, False),
        ([], None, False),
        (None, [1000], True),
        (None, [44], True),
        (None, [45], False),
        (None, [], False),
        ([1001], [44], True),
        ([1000], [45], True),
        ([1001], [45], False),
    ],
)
def test_a_user_or_a_group_is_enough(
    users: list[str | int] | None, groups: list[str | int] | None, allowed: bool
) -> None:
    section = AccessSection(allow_users=users, allow_groups=groups)
    assert allows(section, (43, 44)) == allowed


def test_names_are_looked_up() -> None:
    name = pwd.getpwuid(0).pw_name
    access = Access.of(AccessSection(allow_users=[name]))
    assert access.allows(Peer(1, 0, 0), list)
    assert not access.allows(CAMERA, list)


def test_a_connection_tells_who_made_it(tmp_path: Path) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        assert peer_of(near) == Peer(os.getpid(), os.geteuid(), os.getegid())
        assert set(groups_of(near)) == set(os.getgroups())


def test_a_socket_without_a_peer_has_no_groups() -> None:
    alone = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with alone, pytest.raises(OSError, match="No data available"):
        groups_of(alone)


class Nameless(socket.socket):
    """A connection about which the kernel says nothing."""

    def getsockopt(self, *_: object) -> NoReturn:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")


def test_who_may_not_connect_is_refused_and_the_log_names_the_rule() -> None:
    log = RecordingLog()
    refusals = Refusals(log, TestClock())
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with near, far:
        assert admit(near, Access(), refusals, log) == Peer(os.getpid(), os.geteuid(), os.getegid())
        far.setblocking(False)
        with pytest.raises(BlockingIOError):
            far.recv(1)
        access = Access(frozenset({1003, 1002}), frozenset({7}))
        assert admit(near, access, refusals, log) is None
        assert far.recv(1) == b""
    [(level, event, fields)] = log.entries
    assert (level, event) == ("warning", "a connection was refused: this user may not connect")
    assert fields == {
        "user": os.geteuid(),
        "limit": "access",
        "value": "users [1002, 1003], groups [7]",
        "client_name": "",
        "client_id": 0,
        "pid": os.getpid(),
    }


def test_a_connection_whose_process_the_kernel_does_not_name_is_refused() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log = RecordingLog()
    with far, Nameless(fileno=near.detach()) as connected:
        assert admit(connected, Access(), Refusals(log, TestClock()), log) is None
        assert far.recv(1) == b""
    [(level, event, _)] = log.entries
    assert (level, event.partition(":")[0]) == ("warning", "a connection was refused")


_CONNECT = """
import os, socket, sys
path, uid, gid, *groups = sys.argv[1:]
os.setgroups([int(group) for group in groups]), os.setgid(int(gid)), os.setuid(int(uid))
sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
sock.connect(path)
"""


@as_root
@pytest.mark.parametrize("count", [0, 2, 1000])
def test_another_users_groups_are_told_however_many(open_path: Path, count: int) -> None:
    groups = list(range(3000, 3000 + count))
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(open_path / "socket"))
        os.chmod(open_path / "socket", 0o777)
        listener.listen()
        words = map(str, (open_path / "socket", 951, 952, *groups))
        with subprocess.Popen([sys.executable, "-c", _CONNECT, *words]) as process:
            accepted, _ = listener.accept()
            with accepted:
                assert process.wait(30) == 0
                assert peer_of(accepted) == Peer(process.pid, 951, 952)
                assert list(groups_of(accepted)) == groups
