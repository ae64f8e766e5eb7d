"""Tokens over a program's own sockets: what is possible, what is refused, and the ownership afterwards."""

from __future__ import annotations

import array
import contextlib
import errno
import os
import resource
import socket
import threading
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from typing import Any

import anyio
import pytest

import sysmem
from sysmem import HandleClosedError, PeerClosedError, blocking
from sysmem_protocol.sysmem2 import Node

from .conftest import Peer, Witness

Token = blocking.BufferCollectionToken
TYPES = [socket.SOCK_STREAM, socket.SOCK_SEQPACKET, socket.SOCK_DGRAM]
Ends = tuple[socket.socket, socket.socket]


@pytest.fixture(params=TYPES, ids=["stream", "seqpacket", "datagram"])
def pair(request: pytest.FixtureRequest) -> Iterator[Ends]:
    """Both ends of a program's own connection."""
    near, far = socket.socketpair(socket.AF_UNIX, request.param)
    with near, far:
        yield near, far


@pytest.fixture
def stream() -> Iterator[Ends]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


@pytest.fixture
def peer(ends: tuple[int, Peer]) -> Peer:
    """The daemon's end of the token."""
    return ends[1]


def held(peer: Peer) -> bool:
    """Return whether any process has the token."""
    return not peer.channel.hung_up()


# --- it moves ---------------------------------------------------------------------------------------------------------


def test_a_token_moves_over_a_socket_of_any_type_with_its_data(
    pair: Ends, token: blocking.BufferCollectionToken, peer: Peer
) -> None:
    near, far = pair
    token.send(near, b"for the camera")
    assert token.closed
    received, data = Token.receive(far)
    assert data == b"for the camera"
    assert type(received) is Token
    assert not os.get_inheritable(received.fileno())
    assert held(peer)
    received.close()
    assert not held(peer)


def test_who_gives_no_data_sends_a_byte(pair: Ends, token: blocking.BufferCollectionToken) -> None:
    token.send(pair[0])
    received, data = Token.receive(pair[1])
    received.close()
    assert data == b"\0"


@pytest.mark.parametrize("blocks", [True, False])
def test_other_programs_send_and_receive_it_as_a_descriptor(
    pair: Ends, token: blocking.BufferCollectionToken, peer: Peer, blocks: bool
) -> None:
    near, far = pair
    near.setblocking(blocks)
    far.setblocking(blocks)
    token.send(near, array.array("H", [1, 2]))
    data, [fd], _, _ = socket.recv_fds(far, 100, 4)
    assert data == array.array("H", [1, 2]).tobytes()
    socket.send_fds(far, [b"back"], [fd])
    os.close(fd)
    received, data = Token.receive(near)
    received.close()
    assert data == b"back"
    assert not held(peer)


def test_several_tokens_in_a_row_keep_their_data(pair: Ends) -> None:
    near, far = pair
    others = []
    for index in range(5):
        end, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        others.append(other)
        Token.from_fd(end.detach()).send(near, b"%d" % index)
    for index, other in enumerate(others):
        received, data = Token.receive(far)
        assert data == b"%d" % index
        with received, other:
            other.send(b"hello")
            with socket.socket(fileno=os.dup(received.fileno())) as same:
                assert same.recv(5) == b"hello"


def test_a_stream_gives_what_was_sent_before_in_front_and_leaves_what_came_after(
    stream: Ends, token: blocking.BufferCollectionToken
) -> None:
    near, far = stream
    near.sendall(b"before ")
    token.send(near, b"token")
    near.sendall(b" after")
    received, data = Token.receive(far)
    received.close()
    assert data == b"before token"
    assert far.recv(100) == b" after"


def test_32_kilobytes_go_along_and_no_more(
    pair: Ends, token: blocking.BufferCollectionToken
) -> None:
    for wrong in (b"", bytes(32769)):
        with pytest.raises(ValueError, match="token must have 1 to 32768 bytes"):
            token.send(pair[0], wrong)
    with pytest.raises(TypeError):
        token.send(pair[0], "text")  # type: ignore[arg-type]  # what is tested
    assert not token.closed
    token.send(pair[0], bytes(32768))
    received, data = Token.receive(pair[1])
    received.close()
    assert data == bytes(32768)


def test_a_stream_with_a_tiny_buffer_takes_the_data_in_parts(
    stream: Ends, token: blocking.BufferCollectionToken
) -> None:
    near, far = stream
    near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    sending = threading.Thread(target=token.send, args=(near, bytes(30000)))
    sending.start()
    received, data = Token.receive(far)
    received.close()
    while len(data) < 30000:
        data += far.recv(30000)
    sending.join()
    assert token.closed
    assert data == bytes(30000)


def test_a_part_that_is_not_sent_in_time_is_told_and_the_token_has_moved(
    stream: Ends, token: blocking.BufferCollectionToken
) -> None:
    stream[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
    with pytest.raises(TimeoutError):
        token.send(stream[0], bytes(30000), timeout=0)
    assert token.closed
    Token.receive(stream[1])[0].close()


# --- sockets ----------------------------------------------------------------------------------------------------------


def test_whatever_has_the_descriptor_of_a_unix_socket_will_do(
    token: blocking.BufferCollectionToken,
) -> None:
    near, far = Pipe()
    with near, far:
        token.send(near)
        received, _ = Token.receive(far.fileno())
        received.close()


def test_what_is_no_unix_socket_is_refused(token: blocking.BufferCollectionToken) -> None:
    reader, writer = os.pipe()
    with (
        open(reader, "rb"),
        open(writer, "wb") as pipe,
        socket.socket(socket.AF_INET) as inet,
    ):
        for sock, what in ((pipe, "a pipe"), (inet, "an unconnected AF_INET SOCK_STREAM socket")):
            for call in (token.send, Token.receive):
                with pytest.raises(
                    ValueError, match=f"only be sent over a Unix socket; descriptor .* is {what}"
                ):
                    call(sock)
    for closed in (inet, -1, 10**6):
        with pytest.raises(ValueError, match="descriptor"):
            token.send(closed)
    with pytest.raises(TypeError):
        token.send("/run/socket")  # type: ignore[arg-type]  # what is tested
    assert not token.closed


@pytest.mark.parametrize("kind", TYPES)
def test_a_socket_that_is_not_connected_is_the_kernels_to_refuse(
    token: blocking.BufferCollectionToken, kind: socket.SocketKind
) -> None:
    with socket.socket(socket.AF_UNIX, kind) as sock:
        with pytest.raises(OSError, match="not connected"):
            token.send(sock)
        if kind != socket.SOCK_DGRAM:  # other users may send to it
            with pytest.raises(OSError, match=r"not connected|Invalid argument"):
                Token.receive(sock)
    assert not token.closed


def test_when_the_other_end_is_closed_the_token_stays(
    pair: Ends, token: blocking.BufferCollectionToken
) -> None:
    pair[1].close()
    with pytest.raises(BrokenPipeError, match="the other end of the socket is closed"):
        token.send(pair[0])
    assert not token.closed


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_SEQPACKET])
def test_the_end_is_told_after_all_that_was_sent(
    token: blocking.BufferCollectionToken, kind: socket.SocketKind
) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    with far:
        with near:
            far.send(b"never read")  # so that the kernel reports a reset of the connection
            token.send(near)
        Token.receive(far)[0].close()
        for _ in range(2):
            with pytest.raises(EOFError, match="no token arrived"):
                Token.receive(far)


def test_a_closed_token_can_not_be_sent(pair: Ends, token: blocking.BufferCollectionToken) -> None:
    token.close()
    with pytest.raises(HandleClosedError):
        token.send(pair[0])
    with pytest.raises(TimeoutError):
        Token.receive(pair[1], timeout=0)


# --- time -------------------------------------------------------------------------------------------------------------


def test_a_token_that_comes_later_is_for_the_next_to_ask(
    pair: Ends, token: blocking.BufferCollectionToken
) -> None:
    near, far = pair
    for timeout in (0, 0.01):
        with pytest.raises(TimeoutError, match="no token arrived in time"):
            Token.receive(far, timeout=timeout)
    token.send(near)
    received, _ = Token.receive(far, timeout=0)
    received.close()


def test_a_token_that_finds_no_room_stays_here(
    pair: Ends, token: blocking.BufferCollectionToken, peer: Peer
) -> None:
    near, far = pair
    filler = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            near.send(b"x" * 1000, socket.MSG_DONTWAIT)
            filler += 1
    with pytest.raises(TimeoutError, match="no room for the token in time"):
        token.send(near, timeout=0.01)
    assert not token.closed
    sending = threading.Thread(target=token.send, args=(near,))
    sending.start()
    far.setblocking(True)
    for _ in range(filler):
        far.recv(1000, socket.MSG_WAITALL)
    received, _ = Token.receive(far)
    received.close()
    sending.join()
    assert not held(peer)


# --- what is no token -------------------------------------------------------------------------------------------------


def wrong_things() -> Iterator[tuple[str, list[int]]]:
    memory = os.memfd_create("no token")
    yield "no descriptors arrived", []
    yield "is a regular file or memfd, not the client end", [memory]
    yield "2 descriptors arrived", [memory, memory]
    yield "253 descriptors arrived", [memory] * 253
    os.close(memory)
    near, far = socket.socketpair()
    with near, far:
        yield "is a connected AF_UNIX SOCK_STREAM socket, not the client end", [near.fileno()]


def test_what_is_no_token_is_refused_and_closed_and_the_next_one_is_received(
    pair: Ends, token: blocking.BufferCollectionToken
) -> None:
    near, far = pair
    for reason, fds in wrong_things():
        open_here = len(os.listdir("/proc/self/fd"))
        socket.send_fds(near, [b"surprise"], fds)
        with pytest.raises(ValueError, match=reason):
            Token.receive(far)
        assert len(os.listdir("/proc/self/fd")) == open_here
    token.send(near)
    Token.receive(far)[0].close()


def test_the_data_of_a_refused_message_is_told(pair: Ends) -> None:
    pair[0].send(b"hello?" * 100)
    with pytest.raises(ValueError, match=r"no descriptors arrived with b'hello\?hello") as caught:
        Token.receive(pair[1])
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("kind", [socket.SOCK_SEQPACKET, socket.SOCK_DGRAM])
def test_a_message_that_is_too_large_is_refused_with_what_is_in_it(
    kind: socket.SocketKind, witness: Witness
) -> None:
    near, far = socket.socketpair(socket.AF_UNIX, kind)
    with near, far:
        socket.send_fds(near, [bytes(65537)], [witness.handle.fileno()])
        witness.handle.close()
        with pytest.raises(ValueError, match="larger than 65536 bytes"):
            Token.receive(far)
        assert witness.gone(0)


def test_without_a_descriptor_left_the_token_is_lost_and_that_is_told(
    pair: Ends, token: blocking.BufferCollectionToken, peer: Peer
) -> None:
    token.send(pair[0])
    number = os.dup(0)
    os.close(number)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (number + 1, limit[1]))  # one for the call itself
    try:
        with pytest.raises(OSError, match="no descriptor is left for the token") as caught:
            Token.receive(pair[1])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert caught.value.errno == errno.EMFILE
    assert not held(peer)


# --- ready to be passed on --------------------------------------------------------------------------------------------


def test_a_token_that_was_made_here_is_synced_before_it_goes(
    pair: Ends, ends: tuple[int, Peer]
) -> None:
    """The receiver turns it in on another channel, so the daemon must know it by then."""
    near, far = pair
    fd, peer = ends
    token = Token(fd)
    sending = threading.Thread(target=token.send, args=(near,))
    sending.start()
    request = peer.receive()
    with pytest.raises(TimeoutError):
        Token.receive(far, timeout=0.01)
    peer.answer(request, Node.sync)
    received, _ = Token.receive(far)
    received.close()
    sending.join()


def test_a_token_that_was_received_goes_on_without_a_sync(
    pair: Ends, token: blocking.BufferCollectionToken
) -> None:
    near, far = pair
    token.send(near)
    received, _ = Token.receive(far)
    received.send(far, timeout=0)
    Token.receive(near)[0].close()


def test_late_answers_do_not_reach_the_next_owner(
    pair: Ends, token: blocking.BufferCollectionToken, peer: Peer
) -> None:
    with pytest.raises(TimeoutError):
        token.sync(timeout=0)
    sending = threading.Thread(target=token.send, args=(pair[0],))
    sending.start()
    for _ in range(2):
        peer.answer(peer.receive(), Node.sync)
    received, _ = Token.receive(pair[1])
    sending.join()
    with received:
        assert not received.wait_closed(0)
        peer.echo(1)
        received.sync()


def test_a_token_that_has_failed_is_not_sent(pair: Ends, ends: tuple[int, Peer]) -> None:
    fd, peer = ends
    with Token(fd) as token:
        peer.close()
        with pytest.raises(PeerClosedError):
            token.send(pair[0])


# --- in tasks ---------------------------------------------------------------------------------------------------------


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run an async function in an event loop."""
    return lambda function, *arguments: anyio.run(function, *arguments, backend=request.param)


def test_tasks_send_and_receive(
    run: Callable[..., Any], pair: Ends, ends: tuple[int, Peer]
) -> None:
    async def main() -> None:
        near, far = pair
        token = sysmem.BufferCollectionToken.from_fd(ends[0])

        async def receive() -> None:
            received, data = await sysmem.BufferCollectionToken.receive(far)
            async with received:
                assert type(received) is sysmem.BufferCollectionToken
                assert data == b"hello"
                await received.send(far, timeout=0)  # without a sync, which nobody would answer

        async with anyio.create_task_group() as group:
            group.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            await token.send(near, b"hello")
        assert token.closed
        (await sysmem.BufferCollectionToken.receive(near))[0].close()
        with pytest.raises(TimeoutError):
            await sysmem.BufferCollectionToken.receive(far, timeout=0.01)

    run(main)


def test_a_cancelled_receive_leaves_the_token_for_the_next(
    run: Callable[..., Any], pair: Ends, ends: tuple[int, Peer]
) -> None:
    async def main() -> None:
        near, far = pair
        token = sysmem.BufferCollectionToken.from_fd(ends[0])
        with anyio.move_on_after(0.01) as scope:
            await sysmem.BufferCollectionToken.receive(far)
        assert scope.cancelled_caught
        await token.send(near)
        with anyio.move_on_after(0):  # cancelled from the start
            await sysmem.BufferCollectionToken.receive(far)
        (await sysmem.BufferCollectionToken.receive(far))[0].close()

    run(main)


def test_a_cancelled_send_has_sent_nothing(
    run: Callable[..., Any], pair: Ends, ends: tuple[int, Peer]
) -> None:
    async def main() -> None:
        near, _ = pair
        with sysmem.BufferCollectionToken.from_fd(ends[0]) as token:
            with anyio.move_on_after(0) as scope:
                await token.send(near)
            assert scope.cancelled_caught
            assert not token.closed
            with contextlib.suppress(BlockingIOError):
                while True:
                    near.send(b"x" * 1000, socket.MSG_DONTWAIT)
            with anyio.move_on_after(0.01) as scope:
                await token.send(near)
            assert scope.cancelled_caught
            assert not token.closed

    run(main)
