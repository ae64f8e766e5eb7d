"""The object that a descriptor refers to, and its kind in words."""

from __future__ import annotations

import contextlib
import os
import re
import select
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sysmem_protocol import kinds
from sysmem_protocol.handles import (
    Handle,
)
from sysmem_protocol.kinds import describe, is_kind, is_seqpacket, is_socketpair_end, is_vmo, status
from sysmem_protocol.library import HandleKind

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

#: The object, a function that creates it, its possible kinds (only the server can identify an event), its description.
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
    with Handle(os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) as handle:
        known = status(handle.fileno())._replace(mode=stat.S_IFBLK)
        monkeypatch.setattr(kinds, "status", lambda fd: known)
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
        monkeypatch.setattr(kinds, "_statx", None)
        assert status(memfd.fileno())[1:] == better[1:]
