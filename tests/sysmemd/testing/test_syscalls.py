"""System calls that fail on a test's request, this many times, and then work as before."""

from __future__ import annotations

import ctypes
import errno
import os

import pytest

from sysmem_protocol.channel import Channel, ServedChannel
from sysmem_protocol.handles import channel_pair
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
    ends = [ServedChannel(end.detach()) for end in channel_pair()]
    for end in ends:
        for _ in range(3):
            with pytest.raises(PermissionError):
                end.send(b"x")
        with calls.suspended():
            assert end.send(b"x") == 1
    calls.undo()
    for end in ends:
        assert end.send(b"x") == 1
    for end in ends:
        end.close()


def test_only_the_daemons_end_of_a_channel_fails() -> None:
    calls = Syscalls()
    for name in ("sendmsg", "recvmsg"):
        calls.fail(name, errno.ENOMEM, 0)
    near, far = channel_pair()
    client, served = Channel(near.detach()), ServedChannel(far.detach())
    assert client.send(b"x") == 1
    with pytest.raises(OSError, match="Cannot allocate memory"):
        served.receive()
    calls.undo()
    assert served.receive() == (b"x", [])
    for end in (client, served):
        end.close()


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
