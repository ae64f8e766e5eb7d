"""System calls that fail because a test wants them to: so often, and as they were afterwards."""

from __future__ import annotations

import ctypes
import errno
import os
import socket

import pytest

from sysmemd import inotify
from sysmemd.testing.syscalls import CALLS, Syscalls


def test_a_call_fails_so_often_and_then_works() -> None:
    calls = Syscalls()
    before = os.memfd_create
    calls.fail("memfd_create", errno.EMFILE, 2)
    for _ in range(2):
        with pytest.raises(OSError, match="Too many open files"):
            os.memfd_create("x")
    os.close(os.memfd_create("x"))
    calls.undo()
    assert os.memfd_create is before


def test_a_call_fails_until_it_is_undone_and_not_while_suspended() -> None:
    calls = Syscalls()
    calls.fail("sendmsg", errno.EAGAIN, 1)
    calls.fail("sendmsg", errno.EPERM, 0)
    near, far = socket.socketpair()
    with near, far:
        for _ in range(3):
            with pytest.raises(PermissionError):
                near.sendmsg([b"x"])
        with calls.suspended():
            assert near.sendmsg([b"x"]) == 1
        calls.undo()
        assert near.sendmsg([b"x"]) == 1
    assert "sendmsg" not in vars(socket.socket)


def test_a_call_through_ctypes_fails_with_its_error() -> None:
    calls = Syscalls()
    before = inotify._libc.inotify_init1
    calls.fail("inotify_init1", errno.EMFILE, 1)
    assert inotify._libc.inotify_init1(0) == -1
    assert ctypes.get_errno() == errno.EMFILE
    calls.undo()
    assert inotify._libc.inotify_init1 is before


@pytest.mark.parametrize("name", CALLS)
def test_every_call_of_the_table_is_there_and_is_put_back(name: str) -> None:
    owner, attribute = CALLS[name]
    before = getattr(owner, attribute)
    calls = Syscalls()
    calls.fail(name, errno.ENOMEM, 1)
    assert getattr(owner, attribute) is not before
    calls.undo()
    assert getattr(owner, attribute) is before


def test_a_call_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(KeyError):
        Syscalls().fail("getpid", errno.EPERM, 1)
