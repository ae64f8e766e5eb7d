"""One channel end on real sockets (`docs/spec/linux.md`, "Channels")."""

from __future__ import annotations

import array
import errno
import fcntl
import os
import resource
import select
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from sysmem_protocol.channel import Channel, DescriptorsLost, PeerClosedError
from sysmem_protocol.handles import Handle, channel_pair
from sysmem_protocol.message import MAX_HANDLES, MAX_MESSAGE_BYTES, MalformedMessage
from sysmem_protocol.owner import HandleClosedError, channel_of, new_channel, new_pair

SO_PASSPIDFD = 76


def null() -> Handle:
    return Handle(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ends = channel_pair()
    yield ends
    for end in ends:
        end.close()


@pytest.fixture
def near(pair: tuple[socket.socket, socket.socket]) -> Iterator[Channel]:
    """The end on which most tests send."""
    channel = Channel(pair[0].detach())
    yield channel
    channel.close()


@pytest.fixture
def raw(pair: tuple[socket.socket, socket.socket]) -> socket.socket:
    """The other end, as a plain socket."""
    return pair[1]


@pytest.fixture
def far(raw: socket.socket) -> Iterator[Channel]:
    """The other end."""
    channel = Channel(raw.detach())
    yield channel
    channel.close()


def test_datagrams_arrive_whole_in_order_and_with_their_descriptors(
    near: Channel, far: Channel
) -> None:
    with null() as first, null() as second:
        assert near.send(b"one", [first, second])
        assert near.send(memoryview(b"two"))
        assert not first.closed
    received = far.receive()
    assert received is not None
    assert received[0] == b"one"
    assert len(received[1]) == 2
    for handle in received[1]:
        assert os.path.samestat(os.fstat(handle.fileno()), os.stat("/dev/null"))
        assert not os.get_inheritable(handle.fileno())
        handle.close()
    assert far.receive() == (b"two", [])
    assert far.receive() is None


def test_nothing_waits_whatever_another_owner_made_of_the_description(
    near: Channel, far: Channel
) -> None:
    for end in (near, far):
        os.set_blocking(end.fileno(), True)
    assert far.receive() is None
    while near.send(bytes(60000)):
        pass
    for end in (near, far):
        os.set_blocking(end.fileno(), False)
    assert near.receive() is None


def test_nothing_waits_when_the_program_set_a_default_timeout() -> None:
    socket.setdefaulttimeout(3600)
    try:
        near, far = (Channel(end.detach()) for end in channel_pair())
        made = [
            *new_pair(socket.SOCK_SEQPACKET).made[0],
            *new_channel().made,
            *channel_of(near.fileno()).made,
        ]
    finally:
        socket.setdefaulttimeout(None)
    assert near.receive() is None
    while near.send(bytes(60000)):
        pass
    near.close()
    for sock in made:
        assert sock.gettimeout() is None
        sock.close()
    far.close()


def test_who_waits_sees_the_end_of_a_channel_that_is_shut_down(far: Channel, near: Channel) -> None:
    ended = threading.Event()

    def receive() -> None:
        select.select([far], [], [])
        with pytest.raises(PeerClosedError):
            far.receive()
        ended.set()

    thread = threading.Thread(target=receive)
    thread.start()
    far.shut_down()
    thread.join()
    assert ended.is_set()


def test_a_full_queue_takes_nothing_more_until_something_is_received(
    near: Channel, far: Channel
) -> None:
    sent = 0
    while near.send(b"x"):
        sent += 1
    assert 10 <= sent < 10000
    with null() as handle:
        assert not near.send(b"x", [handle])
        assert not handle.closed
    assert far.receive() == (b"x", [])
    for _ in range(sent - 1):
        assert far.receive() == (b"x", [])
    assert near.send(b"x")


# --- how a channel ends -------------------------------------------------------------------------------------------


def test_what_was_sent_before_a_close_is_received_and_then_the_end(
    near: Channel, far: Channel
) -> None:
    with null() as handle:
        near.send(b"one", [handle])
    near.send(b"two")
    near.close()
    received = far.receive()
    assert received is not None
    received[1][0].close()
    assert far.receive() == (b"two", [])
    for _ in range(2):
        with pytest.raises(PeerClosedError):
            far.receive()


def test_a_peer_that_closed_with_our_data_unread_is_still_heard_to_the_end(
    near: Channel, far: Channel
) -> None:
    """ECONNRESET comes once, before the messages that the peer had sent."""
    far.send(b"unread")
    near.send(b"Release")
    near.close()
    assert far.receive() == (b"Release", [])
    with pytest.raises(PeerClosedError):
        far.receive()


def test_the_reset_alone_is_the_end_too(near: Channel, far: Channel) -> None:
    far.send(b"unread")
    near.close()
    with pytest.raises(PeerClosedError):
        far.receive()


def test_sending_to_a_closed_peer_says_so(near: Channel, far: Channel) -> None:
    far.close()
    with null() as handle, pytest.raises(PeerClosedError):
        near.send(b"x", [handle])
    assert issubclass(PeerClosedError, ConnectionError)


def test_a_sent_descriptor_that_the_program_has_closed_is_named(near: Channel) -> None:
    handle = null()
    number = handle.fileno()
    os.close(number)
    with pytest.raises(
        HandleClosedError, match=f"^descriptor {number} .* not by the Handle, which owns it"
    ):
        near.send(b"x", [handle])
    handle.take()
    assert near.send(b"x")


def test_sending_to_a_peer_that_closed_with_our_data_unread_says_so(
    near: Channel, far: Channel
) -> None:
    near.send(b"unread")
    far.close()
    for _ in range(2):
        with pytest.raises(PeerClosedError):
            near.send(b"x")


def test_after_a_shutdown_the_peer_sees_the_end_and_its_messages_are_still_received(
    near: Channel, far: Channel
) -> None:
    far.send(b"last")
    far.shutdown_sending()
    assert near.receive() == (b"last", [])
    with pytest.raises(PeerClosedError):
        near.receive()
    assert near.send(b"late")
    assert far.receive() == (b"late", [])
    assert far.receive() is None
    near.close()
    with pytest.raises(PeerClosedError):
        far.receive()


def test_shutdowns_are_harmless_whatever_became_of_the_channel(near: Channel, far: Channel) -> None:
    near.close()
    for channel in (near, far):
        for _ in range(2):
            channel.shutdown_sending()
            channel.shut_down()


def test_close_is_idempotent_and_take_leaves_nothing_to_close(near: Channel) -> None:
    fd = near.take()
    assert near.fileno() == -1
    near.close()
    near.close()
    os.fstat(fd)
    os.close(fd)
    assert repr(near) == "<Channel fd -1>"


def test_a_descriptor_that_is_no_socket_stays_the_callers() -> None:
    with null() as handle:
        with pytest.raises(OSError, match="Socket operation on non-socket"):
            Channel(handle.fileno())
        os.fstat(handle.fileno())


# --- malformed datagrams ------------------------------------------------------------------------------------------


def test_an_empty_datagram_is_malformed(raw: socket.socket, near: Channel) -> None:
    raw.send(b"")
    with pytest.raises(MalformedMessage, match="empty"):
        near.receive()
    assert near.receive() is None


def test_an_empty_datagram_with_descriptors_is_malformed_and_they_are_closed(
    raw: socket.socket, near: Channel
) -> None:
    with null() as handle:
        socket.send_fds(raw, [b""], [handle.fileno()] * 3)
    with pytest.raises(MalformedMessage, match="empty"):
        near.receive()
    with null() as handle:
        socket.send_fds(raw, [b""], [handle.fileno()])
    raw.close()
    with pytest.raises(MalformedMessage, match="empty"):
        near.receive()
    with pytest.raises(PeerClosedError):
        near.receive()


def test_a_datagram_of_64_kib_is_received_and_a_larger_one_is_malformed(
    near: Channel, far: Channel
) -> None:
    assert near.send(bytes(MAX_MESSAGE_BYTES))
    assert far.receive() == (bytes(MAX_MESSAGE_BYTES), [])
    with null() as handle:
        assert near.send(bytes(MAX_MESSAGE_BYTES + 1), [handle])
    with pytest.raises(MalformedMessage, match="larger than 65536"):
        far.receive()
    assert far.receive() is None


def test_a_datagram_over_the_send_buffer_is_the_kernels_refusal(near: Channel) -> None:
    with pytest.raises(OSError, match="Message too long") as caught:
        near.send(bytes(1 << 22))
    assert caught.value.errno == errno.EMSGSIZE


def test_253_descriptors_pass_and_254_are_the_kernels_refusal(near: Channel, far: Channel) -> None:
    with null() as handle:
        assert near.send(b"x", [handle] * MAX_HANDLES)
        with pytest.raises(OSError, match="Invalid argument"):
            near.send(b"x", [handle] * (MAX_HANDLES + 1))
    received = far.receive()
    assert received is not None
    assert len({handle.fileno() for handle in received[1]}) == MAX_HANDLES
    for handle in received[1]:
        assert fcntl.fcntl(handle.fileno(), fcntl.F_GETFD) & fcntl.FD_CLOEXEC
        handle.close()


def test_credentials_that_another_owner_asked_for_leave_room_for_all_descriptors(
    near: Channel, raw: socket.socket
) -> None:
    """Otherwise the kernel closes descriptors while this process receives, which may take arbitrarily long."""
    with socket.socket(fileno=os.dup(near.fileno())) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    with null() as handle:
        socket.send_fds(raw, [b"x"], [handle.fileno()] * MAX_HANDLES)
    received = near.receive()
    assert received is not None
    assert len(received[1]) == MAX_HANDLES
    for arrived in received[1]:
        arrived.close()


def test_a_process_descriptor_that_another_owner_of_our_end_asked_for_is_closed(
    near: Channel, raw: socket.socket
) -> None:
    with socket.socket(fileno=os.dup(near.fileno())) as other:
        try:
            other.setsockopt(socket.SOL_SOCKET, SO_PASSPIDFD, 1)
        except OSError:
            pytest.skip("this kernel has no SO_PASSPIDFD")
    raw.send(b"x")
    assert near.receive() == (b"x", [])
    with null() as handle:
        socket.send_fds(raw, [b"y"], [handle.fileno()])
    received = near.receive()
    assert received is not None
    assert (received[0], len(received[1])) == (b"y", 1)
    received[1][0].close()
    raw.send(b"")
    with pytest.raises(MalformedMessage, match="empty"):
        near.receive()
    raw.close()
    with pytest.raises(PeerClosedError):
        near.receive()


def test_running_out_of_descriptors_while_receiving_is_truncation(
    near: Channel, raw: socket.socket
) -> None:
    with null() as handle:
        socket.send_fds(raw, [b"x"], [handle.fileno()] * 3)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        free = os.dup(handle.fileno())
        os.close(free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (free + 1, hard))
        try:
            with pytest.raises(DescriptorsLost, match="control data was truncated") as caught:
                near.receive()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert caught.value.data == b"x"
        socket.send_fds(raw, [b"y"], [handle.fileno()])
    received = near.receive()
    assert received is not None
    assert (received[0], len(received[1])) == (b"y", 1)
    received[1][0].close()


def test_an_interrupted_call_is_made_again() -> None:
    class Interrupted:
        """A socket whose calls are interrupted once, by a signal handler that raises this kind of exception."""

        def __init__(self) -> None:
            self.calls: list[str] = []

        def recvmsg(self, *_: object) -> tuple[bytes, list[object], int, None]:
            self.calls.append("recvmsg")
            if len(self.calls) == 1:
                raise InterruptedError
            return b"x", [], 0, None

        def send(self, *_: object) -> int:
            self.calls.append("send")
            if len(self.calls) == 3:
                raise InterruptedError
            return 1

        def gettimeout(self) -> None:
            return None

    sock = Interrupted()
    channel = Channel(sock)  # type: ignore[arg-type] # as much of one as is asked for
    assert channel.receive() == (b"x", [])
    assert channel.send(b"x")
    assert sock.calls == ["recvmsg"] * 2 + ["send"] * 2


def test_other_control_data_is_left_alone(near: Channel, raw: socket.socket) -> None:
    with socket.socket(fileno=os.dup(near.fileno())) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    credentials = struct.pack("3i", os.getpid(), os.getuid(), os.getgid())
    with null() as handle:
        fds = array.array("i", [handle.fileno()])
        raw.sendmsg(
            [b"x"],
            [
                (socket.SOL_SOCKET, socket.SCM_CREDENTIALS, credentials),
                (socket.SOL_SOCKET, socket.SCM_RIGHTS, fds),
            ],
        )
    received = near.receive()
    assert received is not None
    assert len(received[1]) == 1
    received[1][0].close()


# --- names --------------------------------------------------------------------------------------------------------


def test_an_ends_name_is_what_the_other_end_sees(near: Channel, far: Channel) -> None:
    assert far.peer_name() == b""
    name = f"\0sysmem-test/{os.urandom(8).hex()}/17".encode()
    near.bind(name)
    assert far.peer_name() == name
    assert near.peer_name() == b""


def test_an_end_is_named_once_and_by_a_name_that_is_free(near: Channel, far: Channel) -> None:
    name = f"\0sysmem-test/{os.urandom(8).hex()}/17".encode()
    near.bind(name)
    with pytest.raises(OSError, match="Invalid argument"):
        near.bind(name + b"1")
    with pytest.raises(OSError, match="Address already in use"):
        far.bind(name)


def test_a_peer_that_is_gone_or_has_a_path_is_named_too(near: Channel, far: Channel) -> None:
    near.bind(f"\0sysmem-test/{os.urandom(8).hex()}/18".encode())
    near.close()
    assert far.peer_name().endswith(b"/18")
    unconnected = Channel(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).detach())
    assert unconnected.peer_name() == b""
    unconnected.close()


def test_a_peers_path_is_bytes(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = os.open(tmp_path_factory.mktemp("s"), os.O_PATH)
    path = f"/proc/self/fd/{directory}/é"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(path)
        listener.listen()
        client = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        client.connect(path)
    channel = Channel(client.detach())
    assert channel.peer_name() == path.encode()
    assert repr(channel) == f"<Channel fd {channel.fileno()}>"
    channel.close()
    os.close(directory)
