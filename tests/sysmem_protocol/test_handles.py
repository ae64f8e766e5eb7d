"""Descriptors with an owner, and what kind of object a descriptor is."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import gc
import os
import re
import select
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sysmem_protocol import handles
from sysmem_protocol.handles import (
    FLOCK,
    Handle,
    channel_pair,
    describe,
    descriptors_waiting,
    drop_unread,
    eventpair,
    holds_lock,
    is_kind,
    is_seqpacket,
    is_socketpair_end,
    is_vmo,
    shut_down,
    status,
    stop_receiving,
)
from sysmem_protocol.library import HandleKind
from sysmem_protocol.owner import HandleClosedError

#: From asm-generic/socket.h; Python has no name for it.
SO_PEEK_OFF = 42


def send_urgently(end: socket.socket, fd: int) -> None:
    """Send a descriptor out of band, which `send_fds` doesn't do."""
    fds = array.array("i", [fd])
    end.sendmsg([b"!"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)], socket.MSG_OOB)


def null() -> int:
    return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)


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
    other = null()  # most likely the same number again
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
    """The other end notices nothing but that, until this one is closed."""
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
        stop_receiving(far.fileno())  # its other end is gone, and that is no error
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
    """The kernel would write out all locks first, and there may be very many."""
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
        assert watched.recv(1) == b""  # nobody holds the descriptor that was sent
        assert descriptors_waiting(near.fileno()) == 0
        drop_unread(near.fileno())


def test_what_can_not_be_dropped_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had a stream's end before can have read an urgent byte without its descriptors."""
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


def test_what_a_descriptor_is_without_asking_its_file_system() -> None:
    with Handle(os.memfd_create("x")) as memfd:
        found, expected = status(memfd.fileno()), os.fstat(memfd.fileno())
        assert stat.S_IFMT(found.mode) == stat.S_IFREG
        assert (found.device, found.inode) == (expected.st_dev, expected.st_ino)
    near, far = os.pipe()
    assert status(near)[1:] == status(far)[1:]
    assert stat.S_ISFIFO(status(near).mode)
    for fd in (near, far):
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        status(far)


def test_where_the_c_library_does_not_know_better(monkeypatch: pytest.MonkeyPatch) -> None:
    with Handle(os.memfd_create("x")) as memfd:
        better = status(memfd.fileno())
        monkeypatch.setattr(handles, "_statx", None)
        assert status(memfd.fileno())[1:] == better[1:]


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


# --- kinds --------------------------------------------------------------------------------------------------------

SEQPACKET, STREAM, DGRAM = socket.SOCK_SEQPACKET, socket.SOCK_STREAM, socket.SOCK_DGRAM


def pair(kind: int) -> Callable[[contextlib.ExitStack, Path], int]:
    def make(stack: contextlib.ExitStack, _: Path) -> int:
        near, far = socket.socketpair(socket.AF_UNIX, kind)
        stack.enter_context(far)
        return near.detach()

    return make


def bound_pair(which: int) -> Callable[[contextlib.ExitStack, Path], int]:
    def make(stack: contextlib.ExitStack, _: Path) -> int:
        ends = socket.socketpair(socket.AF_UNIX, SEQPACKET)
        ends[which].bind(f"\0sysmem-test/{os.getpid()}/{os.urandom(8).hex()}")
        stack.enter_context(ends[1])
        return ends[0].detach()

    return make


def half_closed_pair(stack: contextlib.ExitStack, _: Path) -> int:
    near, far = socket.socketpair(socket.AF_UNIX, SEQPACKET)
    far.close()
    return near.detach()


def fresh(family: int, kind: int) -> Callable[[contextlib.ExitStack, Path], int]:
    def make(stack: contextlib.ExitStack, _: Path) -> int:
        try:
            return socket.socket(family, kind).detach()
        except OSError as error:
            pytest.skip(f"no such sockets here: {error}")

    return make


def listening(kind: int) -> Callable[[contextlib.ExitStack, Path], int]:
    def make(stack: contextlib.ExitStack, directory: Path) -> int:
        sock = socket.socket(socket.AF_UNIX, kind)
        sock.bind(str(directory / "l"))
        sock.listen()
        return sock.detach()

    return make


def connected(kind: int, *, accepted: bool) -> Callable[[contextlib.ExitStack, Path], int]:
    def make(stack: contextlib.ExitStack, directory: Path) -> int:
        with socket.socket(socket.AF_UNIX, kind) as listener:
            listener.bind(str(directory / "c"))
            listener.listen()
            client = socket.socket(socket.AF_UNIX, kind)
            client.connect(str(directory / "c"))
            server, _ = listener.accept()
        ours, other = (server, client) if accepted else (client, server)
        stack.enter_context(other)
        return ours.detach()

    return make


def tcp(stack: contextlib.ExitStack, _: Path) -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _address = listener.accept()
    stack.enter_context(server)
    return client.detach()


def regular(stack: contextlib.ExitStack, directory: Path) -> int:
    return os.open(directory / "f", os.O_CREAT | os.O_RDWR)


def opened(path: str, flags: int) -> Callable[[contextlib.ExitStack, Path], int]:
    return lambda stack, directory: os.open(directory / path, flags)


def socket_path(stack: contextlib.ExitStack, directory: Path) -> int:
    stack.enter_context(socket.socket(socket.AF_UNIX, SEQPACKET)).bind(str(directory / "s"))
    return os.open(directory / "s", os.O_PATH)


def file_path(stack: contextlib.ExitStack, directory: Path) -> int:
    (directory / "f").touch()
    return os.open(directory / "f", os.O_PATH)


def pipe(which: int) -> Callable[[contextlib.ExitStack, Path], int]:
    def make(stack: contextlib.ExitStack, _: Path) -> int:
        ends = os.pipe()
        stack.callback(os.close, ends[1 - which])
        return ends[which]

    return make


def fifo(stack: contextlib.ExitStack, directory: Path) -> int:
    os.mkfifo(directory / "p")
    return os.open(directory / "p", os.O_RDWR)


CLIENT_END, SERVER_END = HandleKind.CLIENT_END, HandleKind.SERVER_END
EVENTPAIR, VMO, EVENT = HandleKind.EVENTPAIR, HandleKind.VMO, HandleKind.EVENT

#: What it is; how to make one; the kinds that it can be (an event, as the server decides that); its description.
KINDS: list[tuple[str, Callable[[contextlib.ExitStack, Path], int], set[HandleKind], str]] = [
    (
        "channel end",
        pair(SEQPACKET),
        {CLIENT_END, SERVER_END, EVENTPAIR},
        "a connected AF_UNIX SOCK_SEQPACKET socket",
    ),
    (
        "channel end whose peer is closed",
        half_closed_pair,
        {CLIENT_END, SERVER_END, EVENTPAIR},
        "a connected AF_UNIX SOCK_SEQPACKET socket",
    ),
    (
        "end with a name",
        bound_pair(0),
        {CLIENT_END},
        r"a connected AF_UNIX SOCK_SEQPACKET socket, itself named b'\\x00sysmem-test/.*'",
    ),
    (
        "end of a peer with a name",
        bound_pair(1),
        {CLIENT_END},
        r"a connected AF_UNIX SOCK_SEQPACKET socket, its peer named b'\\x00sysmem-test/.*'",
    ),
    (
        "unconnected seqpacket",
        fresh(socket.AF_UNIX, SEQPACKET),
        {CLIENT_END},
        "an unconnected AF_UNIX SOCK_SEQPACKET socket",
    ),
    (
        "listening seqpacket",
        listening(SEQPACKET),
        {CLIENT_END},
        "a listening AF_UNIX SOCK_SEQPACKET socket",
    ),
    (
        "connected to a path",
        connected(SEQPACKET, accepted=False),
        {CLIENT_END},
        "a connected AF_UNIX SOCK_SEQPACKET socket, its peer named '.*/c'",
    ),
    (
        "accepted at a path",
        connected(SEQPACKET, accepted=True),
        {CLIENT_END},
        "a connected AF_UNIX SOCK_SEQPACKET socket, itself named '.*/c'",
    ),
    ("stream end", pair(STREAM), {EVENTPAIR}, "a connected AF_UNIX SOCK_STREAM socket"),
    ("listening stream", listening(STREAM), set(), "a listening AF_UNIX SOCK_STREAM socket"),
    (
        "unconnected stream",
        fresh(socket.AF_UNIX, STREAM),
        set(),
        "an unconnected AF_UNIX SOCK_STREAM socket",
    ),
    (
        "stream connected to a path",
        connected(STREAM, accepted=False),
        set(),
        "a connected AF_UNIX SOCK_STREAM socket, its peer .*",
    ),
    ("datagram end", pair(DGRAM), set(), "a connected AF_UNIX SOCK_DGRAM socket"),
    (
        "unconnected datagram",
        fresh(socket.AF_UNIX, DGRAM),
        set(),
        "an unconnected AF_UNIX SOCK_DGRAM socket",
    ),
    ("tcp", tcp, set(), "a connected AF_INET SOCK_STREAM socket"),
    ("udp", fresh(socket.AF_INET6, DGRAM), set(), "an unconnected AF_INET6 SOCK_DGRAM socket"),
    (
        "netlink",
        fresh(socket.AF_NETLINK, socket.SOCK_RAW),
        set(),
        "an? (un)?connected AF_NETLINK SOCK_RAW socket",
    ),
    (
        "vsock seqpacket",
        fresh(socket.AF_VSOCK, SEQPACKET),
        set(),
        "an unconnected AF_VSOCK SOCK_SEQPACKET socket",
    ),
    (
        "alg, which has no name to get",
        fresh(socket.AF_ALG, SEQPACKET),
        set(),
        "an unconnected AF_ALG SOCK_SEQPACKET socket",
    ),
    (
        "xdp, which Python doesn't know",
        fresh(44, socket.SOCK_RAW),
        set(),
        "an unconnected family 44 SOCK_RAW socket",
    ),
    ("memfd", lambda s, d: os.memfd_create("m"), {VMO}, "a regular file or memfd"),
    ("regular file", regular, {VMO}, "a regular file or memfd"),
    ("file opened with O_PATH", file_path, set(), "a descriptor opened with O_PATH"),
    ("socket opened with O_PATH", socket_path, set(), "a descriptor opened with O_PATH"),
    ("directory", opened(".", os.O_RDONLY), set(), "a directory"),
    (
        "directory opened with O_PATH",
        opened(".", os.O_PATH),
        set(),
        "a descriptor opened with O_PATH",
    ),
    ("pipe, reading", pipe(0), set(), "a pipe"),
    ("pipe, writing", pipe(1), set(), "a pipe"),
    ("fifo", fifo, set(), "a pipe"),
    ("character device", opened("/dev/null", os.O_RDWR), set(), "a character device"),
    ("eventfd", lambda s, d: os.eventfd(0), set(), r"anon_inode:\[eventfd\]"),
    (
        "epoll",
        lambda s, d: os.dup(s.enter_context(contextlib.closing(select.epoll())).fileno()),
        set(),
        r"anon_inode:\[eventpoll\]",
    ),
    (
        "pidfd",
        lambda s, d: os.pidfd_open(os.getpid()),
        set(),
        r"anon_inode:\[pidfd\]|pidfd:.*|.*pidfs.*",
    ),
]


@pytest.fixture
def directory() -> Iterator[Path]:
    """A directory with a path short enough for sockets in it."""
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


@pytest.mark.parametrize(
    ("make", "kinds", "words"),
    [pytest.param(make, kinds, words, id=what) for what, make, kinds, words in KINDS],
)
def test_what_a_descriptor_is(
    directory: Path,
    make: Callable[[contextlib.ExitStack, Path], int],
    kinds: set[HandleKind],
    words: str,
) -> None:
    with contextlib.ExitStack() as stack:
        fd = make(stack, directory)
        stack.callback(os.close, fd)
        mode = os.fstat(fd).st_mode
        assert {kind for kind in HandleKind if is_kind(fd, kind)} == kinds | {EVENT}
        assert is_seqpacket(fd) == (CLIENT_END in kinds)
        assert is_vmo(fd) == (VMO in kinds)
        assert is_socketpair_end(fd, SEQPACKET, STREAM) == (EVENTPAIR in kinds)
        assert re.fullmatch(words, describe(fd)), describe(fd)
        assert os.fstat(fd).st_mode == mode


def test_a_block_device_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    with Handle(null()) as handle:
        known = status(handle.fileno())._replace(mode=stat.S_IFBLK)
        monkeypatch.setattr(handles, "status", lambda fd: known)
        assert describe(handle.fileno()) == "a block device"


def test_looking_at_a_socket_leaves_it_open_and_as_it_was() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, SEQPACKET)
    with near, far:
        for _ in range(3):
            assert is_kind(near.fileno(), SERVER_END)
            describe(near.fileno())
        assert os.get_blocking(near.fileno())
        far.send(b"x")
        assert near.recv(2) == b"x"
