"""Descriptors with an owner, and pairs of connected ends."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import gc
import os
import select
import socket
from collections.abc import Callable

import pytest

from sysmem_protocol import handles
from sysmem_protocol.handles import (
    FLOCK,
    Handle,
    channel_pair,
    descriptors_waiting,
    drop_unread,
    eventpair,
    holds_lock,
    shut_down,
    stop_receiving,
)
from sysmem_protocol.owner import HandleClosedError, number, own

#: From asm-generic/socket.h; Python has no name for it.
SO_PEEK_OFF = 42


def send_urgently(end: socket.socket, fd: int) -> None:
    """Send a descriptor with out-of-band data, which `send_fds` does not support."""
    fds = array.array("i", [fd])
    end.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)], socket.MSG_OOB)


def null() -> int:
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)


def test_a_closed_cell_has_no_number() -> None:
    fd = null()
    cell = own(fd)
    assert number(cell) == fd
    cell.close()
    assert number(cell) == -1


def is_open(fd: int) -> bool:
    return os.path.exists(f"/proc/self/fd/{fd}")


# --- ownership ----------------------------------------------------------------------------------------------------


def test_a_handle_closes_its_descriptor_once() -> None:
    fd = null()
    handle = Handle(fd)
    assert handle.fileno() == fd
    closed = [handle.closed]
    handle.close()
    closed.append(handle.closed)
    assert closed == [False, True]
    assert not is_open(fd)
    other = null()  # this is most likely the same number again
    handle.close()
    assert is_open(other)
    os.close(other)


def test_a_with_block_closes_the_handle_whatever_happens_in_it() -> None:
    handle = Handle(null())
    with pytest.raises(KeyError), handle:
        raise KeyError
    assert handle.closed


def test_take_gives_the_descriptor_away() -> None:
    fd = null()
    handle = Handle(fd)
    assert handle.take() == fd
    assert handle.closed
    handle.close()
    assert is_open(fd)
    os.close(fd)


def test_a_handle_that_is_closed_or_was_given_away_has_no_descriptor() -> None:
    handle = Handle(null())
    handle.close()
    for use in (handle.fileno, handle.take, handle.duplicate):
        with pytest.raises(HandleClosedError, match="closed or was given away"):
            use()


def test_a_duplicate_is_the_same_object_by_another_descriptor_that_programs_dont_inherit() -> None:
    class Vmo(Handle):
        __slots__ = ()

    with Vmo(os.memfd_create("x")) as vmo, vmo.duplicate() as duplicate:
        assert type(duplicate) is Vmo
        assert duplicate.fileno() != vmo.fileno()
        assert os.path.sameopenfile(duplicate.fileno(), vmo.fileno())
        assert not os.get_inheritable(duplicate.fileno())


def test_a_handle_that_is_dropped_closes_and_warns() -> None:
    fd = null()
    handle = Handle(fd)
    owners = [handle]
    del handle
    with pytest.warns(ResourceWarning, match=rf"<Handle fd {fd}> was dropped without close"):
        owners.clear()
    assert not is_open(fd)


@pytest.mark.parametrize("end", [Handle.close, Handle.take])
def test_a_handle_without_a_descriptor_is_dropped_silently(end: Callable[[Handle], object]) -> None:
    fd = null()
    handle = Handle(fd)
    end(handle)
    del handle
    gc.collect()
    if is_open(fd):
        os.close(fd)


def test_a_handle_that_never_got_a_descriptor_is_dropped_silently() -> None:
    handle = Handle.__new__(Handle)
    del handle
    gc.collect()


def test_repr_shows_the_descriptor_or_that_there_is_none() -> None:
    with Handle(null()) as handle:
        assert repr(handle) == f"<Handle fd {handle.fileno()}>"
    assert repr(handle) == "<Handle closed>"


def test_a_channel_pair_is_two_connected_ends_that_dont_block_and_arent_inherited() -> None:
    near, far = channel_pair()
    with near, far:
        for end in (near, far):
            assert end.type == socket.SOCK_SEQPACKET
            assert not end.getblocking()
            assert not end.get_inheritable()
        near.send(b"one")
        near.send(b"two")
        assert far.recv(100) == b"one"


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_an_end_that_stopped_receiving_gets_nothing_more(kind: int) -> None:
    """The other end notices only that, until this end is closed."""
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    with near, far:
        stop_receiving(near.fileno())
        with pytest.raises(BrokenPipeError):
            far.send(b"*")
        near.send(b"?")
        assert far.recv(100) == b"?"
        poll = select.poll()
        poll.register(far, select.POLLHUP | select.POLLRDHUP)
        assert poll.poll(0) == []
        shut_down(near.fileno())
        assert poll.poll(0)
        shut_down(near.fileno())
        near.close()
        stop_receiving(far.fileno())  # its other end is gone, which is not an error
        shut_down(far.fileno())


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_descriptors_that_wait_are_counted_whatever_the_sender_does(kind: int) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    with near, far:
        assert descriptors_waiting(near.fileno()) == 0
        far.send(b"no descriptors")
        assert descriptors_waiting(near.fileno()) == 0
        near.send(b"never read: its sender's end tells so with an error")
        near.setsockopt(socket.SOL_SOCKET, SO_PEEK_OFF, 1_000_000)
        socket.send_fds(far, [b"*"], [0, 0])
        if kind == socket.SOCK_STREAM:
            send_urgently(far, 0)
        else:
            socket.send_fds(far, [b""], [0])
        far.close()
        assert descriptors_waiting(near.fileno()) == 3
        stop_receiving(near.fileno())
        assert descriptors_waiting(near.fileno()) == 3


def lock(fd: int, start: int = 0, length: int = 0) -> None:
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, start, length, 0))


def test_descriptors_that_wait_behind_locks_cannot_be_counted() -> None:
    """The kernel would list all locks first, and there may be very many."""
    near, far = channel_pair()
    with near, far:
        lock(near.fileno())
        with pytest.raises(OSError, match="does not report the number"):
            descriptors_waiting(near.fileno())
        with pytest.raises(OSError, match="does not report the number"):
            drop_unread(near.fileno())
        assert descriptors_waiting(far.fileno()) == 0


def test_on_kernels_that_tell_no_locks_as_many_descriptors_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def before_linux_6_6(fd: int) -> bool:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(handles, "holds_lock", before_linux_6_6)
    near, far = channel_pair()
    with near, far:
        socket.send_fds(far, [b"x"], [0])
        assert descriptors_waiting(near.fileno()) == 1
        for byte in range(200):
            lock(near.fileno(), 2 * byte, 1)
        with pytest.raises(OSError, match="does not report the number"):
            descriptors_waiting(near.fileno())


def test_a_description_holds_its_own_locks_and_no_others() -> None:
    with (
        Handle(os.memfd_create("locked", os.MFD_CLOEXEC)) as one,
        Handle(os.open(f"/proc/self/fd/{one.fileno()}", os.O_RDWR | os.O_CLOEXEC)) as other,
    ):
        lock(one.fileno(), 10, 1)
        assert holds_lock(one.fileno())
        assert holds_lock(one.fileno(), 10, 1)
        assert holds_lock(one.fileno(), 9, 2)
        assert not holds_lock(one.fileno(), 0, 10)
        assert not holds_lock(one.fileno(), 11, 5)
        assert not holds_lock(other.fileno())


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_dropping_what_waits_closes_it(kind: int) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    watched, sent = socket.socketpair()
    with near, watched:
        with far, sent:
            near.send(b"never read: its sender's end tells so with an error")
            if kind == socket.SOCK_SEQPACKET:
                far.send(b"")
                socket.send_fds(far, [b""], [sent.fileno()])
            for _ in range(3):
                socket.send_fds(far, [b"much more than one byte"], [sent.fileno()])
                if kind == socket.SOCK_STREAM:
                    send_urgently(far, sent.fileno())
            stop_receiving(near.fileno())
        drop_unread(near.fileno())
        assert watched.recv(1) == b""  # no process holds the descriptor that was sent
        assert descriptors_waiting(near.fileno()) == 0
        drop_unread(near.fileno())


def test_what_can_not_be_dropped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier owner of a stream's end can have read an urgent byte without its descriptors."""
    near, far = socket.socketpair()
    with near, far:
        stop_receiving(near.fileno())
        monkeypatch.setattr(handles, "descriptors_waiting", lambda *_: 1)
        with pytest.raises(OSError, match="cannot be received"):
            drop_unread(near.fileno())


def test_dropping_a_full_queue_takes_few_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    near, far = socket.socketpair()
    with near, far:
        far.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                sent += far.send(b"x" * 65536)
        near.recv(65536)
        socket.send_fds(far, [b"x"], [0])
        stop_receiving(near.fileno())
        calls = []

        def count(fd: int, fdinfo: int | None) -> int:
            calls.append(fd)
            return descriptors_waiting(fd, fdinfo)

        monkeypatch.setattr(handles, "descriptors_waiting", count)
        drop_unread(near.fileno())
        assert len(calls) <= sent // 4096 + 2


def test_a_handle_that_moves_keeps_how_it_is_closed() -> None:
    closed: list[int] = []
    handle = Handle(99, closed.append)
    moved = handle.move(Handle)
    handle.close()
    assert closed == []
    moved.close()
    moved.close()
    assert closed == [99]


def test_an_eventpairs_end_is_signalled_when_every_descriptor_of_the_other_is_closed() -> None:
    near, far = eventpair()
    with near:
        poll = select.poll()
        poll.register(near, select.POLLIN)
        with far.duplicate():
            far.close()
            assert poll.poll(0) == []
        assert poll.poll(0) != []
        assert not os.get_inheritable(near.fileno())
