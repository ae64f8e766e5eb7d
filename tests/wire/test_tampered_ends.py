"""`docs/spec/linux.md`: look-alikes of the daemon's ends, and duplicates of its ends in the hands of clients."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from .protocol import constraints, header
from .raw import (
    PATIENCE,
    Allocator,
    Channel,
    Collection,
    Descriptor,
    PeerClosed,
    Token,
    Wire,
    assert_close,
    receive_descriptors,
)

BIND_IN_ANOTHER_NAMESPACE = """
import socket, sys
name = bytes.fromhex(sys.argv[1])
over = socket.socket(fileno=int(sys.argv[2]))
server, client = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
server.bind(name)
socket.send_fds(over, [b"*"], [client.fileno(), server.fileno()])
over.recv(1)
"""


def look_alike(wire: Wire, token: Token) -> tuple[Channel, Descriptor]:
    """Return an end whose peer has the token's name, and that peer. It is created where the name is free."""
    mine, theirs = socket.socketpair()
    wire.own(mine)
    name = bytes(token.socket.getpeername())
    with theirs:
        process = subprocess.Popen(
            [
                *("unshare", "--net", sys.executable, "-c", BIND_IN_ANOTHER_NAMESPACE),
                *(name.hex(), str(theirs.fileno())),
            ],
            pass_fds=[theirs.fileno()],
        )
    try:
        client, server = receive_descriptors(wire, mine)
    finally:
        mine.close()
        process.wait(PATIENCE)
    fake = Channel(wire, socket.socket(fileno=os.dup(client.fileno())))
    client.close()
    assert fake.socket.getpeername() == token.socket.getpeername()
    return fake, server


needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace takes root")


@needs_root
def test_a_look_alike_end_binds_and_disturbs_nothing(wire: Wire) -> None:
    allocator, root, child = wire.root_and_child()
    for _ in range(3):
        fake, server = look_alike(wire, child)
        stolen = allocator.bind(fake)
        stolen.assert_closes()
        server.close()
        child.sync()
        assert allocator.validate(child.koid())
    one, other = allocator.bind(root), allocator.bind(child)
    for collection in (one, other):
        collection.set_constraints(constraints())
        collection.sync()
    assert len(one.wait().buffers) == 2


@needs_root
def test_what_a_look_alike_was_sent_before_is_never_taken_for_the_tokens(wire: Wire) -> None:
    allocator, root = wire.root()
    root.sync()
    fake, server = look_alike(wire, root)
    with contextlib.suppress(PeerClosed):
        fake.send("Node.Release")
        fake.send_bytes(b"?")
    allocator.bind(fake).assert_closes()
    server.close()
    root.sync()
    collection = allocator.bind(root)
    collection.allocate()


@needs_root
def test_a_look_alike_whose_peer_sends_noise_or_never_reads(wire: Wire) -> None:
    allocator, root = wire.root()
    root.sync()
    fake, server = look_alike(wire, root)
    fake.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            fake.socket.send(b"x" * 1000)  # the queue has no room for the daemon's nonce
    allocator.bind(fake).assert_closes()
    server.close()
    root.sync()
    assert allocator.validate(root.koid())


@needs_root
def test_a_look_alike_while_the_real_token_has_messages_under_way(wire: Wire) -> None:
    allocator, root = wire.root()
    root.sync()
    fake, server = look_alike(wire, root)
    children = [root.duplicate_token() for _ in range(50)]
    sync = root.request("Node.Sync")
    allocator.bind(fake).assert_closes()
    server.close()
    assert root.answer(sync).body is None
    for child in children:
        child.sync()


def test_a_real_token_with_a_full_queue_binds(wire: Wire) -> None:
    """The daemon must wait for room for the nonce and not give up, because the client was first."""
    allocator, root = wire.root()
    root.sync()
    info = header(0, 0x5CDE8914608D99B1) + b"\xa1\x01\x79\x01\x00" + b"n" * 256
    root.socket.setblocking(False)
    for _ in range(500):
        with contextlib.suppress(BlockingIOError):
            root.socket.send(info)
    collection = allocator.bind(root)
    collection.allocate()


def test_a_token_whose_reading_side_is_shut_down_fails_no_bystander(wire: Wire) -> None:
    allocator, root = wire.root()
    root.sync()
    root.socket.shutdown(socket.SHUT_RD)
    collection = allocator.bind(root)
    allocator.sync()
    with contextlib.suppress(PeerClosed):
        collection.sync()


def test_a_token_whose_sending_side_was_shut_down_before_the_bind(wire: Wire) -> None:
    """It was shut down without Release: the channel closed, the node failed, the token is unknown."""
    allocator, root, child = wire.root_and_child()
    child.socket.shutdown(socket.SHUT_WR)
    allocator.bind(child).assert_closes()
    root.assert_closes()
    allocator.sync()


# The server's descriptors have duplicates here


def kept_server_end(wire: Wire) -> tuple[Allocator, Token, Token, Descriptor]:
    """Return a root, a child, and a duplicate of the child's server end."""
    allocator, root = wire.root()
    client, server = wire.pair()
    kept = server.duplicate()
    root.send("BufferCollectionToken.Duplicate", {1: 0x80000000, 2: server})
    root.sync()
    return allocator, root, Token(wire, client), kept


def test_clearing_o_nonblock_on_a_duplicate_blocks_nobody(wire: Wire) -> None:
    allocator, root, child, kept = kept_server_end(wire)
    os.set_blocking(kept.fileno(), True)
    allocator.sync()
    child.sync()
    os.set_blocking(kept.fileno(), True)
    # unread responses fill the queue; a blocking send would stop the daemon
    with contextlib.suppress(PeerClosed):
        for txid in range(1, 3000):
            child.send("Node.Sync", txid=txid)
            os.set_blocking(kept.fileno(), True)
    wire.connect().sync()
    root.assert_closes()


def test_reading_from_a_duplicate_only_takes_the_clients_own_messages(wire: Wire) -> None:
    allocator, root, child, kept = kept_server_end(wire)
    thief = Channel(wire, socket.socket(fileno=os.dup(kept.fileno())))
    thief.socket.setblocking(False)
    for _ in range(200):
        child.send("Node.SetDebugClientInfo", {1: "n", 2: 1})
        with contextlib.suppress(BlockingIOError):
            thief.socket.recv(1 << 16)
    allocator.sync()
    child.socket.settimeout(0.2)
    with contextlib.suppress(TimeoutError, PeerClosed):
        child.sync()  # it may have been stolen
    allocator.sync()
    root.sync()


def test_reading_the_nonce_from_a_duplicate_delays_no_other_client(wire: Wire) -> None:
    allocator, root, child, kept = kept_server_end(wire)
    thief = Channel(wire, socket.socket(fileno=os.dup(kept.fileno())))
    other = wire.connect()
    thief.socket.setblocking(False)
    collection = allocator.bind(child)
    for _ in range(2000):
        with contextlib.suppress(BlockingIOError):
            thief.socket.recv(1 << 16)
    other.sync()
    with contextlib.suppress(PeerClosed):
        collection.sync()  # without its nonce the token was a fake, and its close failed the tree
        root.sync()


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])
def test_shutting_down_a_duplicate_harms_only_its_owner(wire: Wire, how: int) -> None:
    allocator, root, child, kept = kept_server_end(wire)
    with socket.socket(fileno=os.dup(kept.fileno())) as end:
        end.shutdown(how)
    allocator.sync()
    with contextlib.suppress(PeerClosed):
        child.request("Node.Sync")
    wire.connect().sync()
    child.close()
    kept.close()
    root.assert_closes()


def test_sending_through_a_duplicate_reaches_only_the_client_itself(wire: Wire) -> None:
    allocator, root, child, kept = kept_server_end(wire)
    with socket.socket(fileno=os.dup(kept.fileno())) as end:
        end.send(b"hello myself")
    assert child.socket.recv(100) == b"hello myself"
    child.sync()
    root.sync()
    allocator.sync()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        (socket.SO_PASSCRED, 1),
        (getattr(socket, "SO_PASSSEC", 34), 1),
        (29, 1),  # SO_TIMESTAMP
        (socket.SO_SNDBUF, 0),
        (socket.SO_RCVBUF, 0),
        (42, 0),  # SO_PEEK_OFF
    ],
)
def test_options_set_on_a_duplicate_harm_at_most_its_owner(
    wire: Wire, option: int, value: int
) -> None:
    allocator, root, child, kept = kept_server_end(wire)
    with socket.socket(fileno=os.dup(kept.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, option, value)
    child.sync()
    pair = wire.eventpair()
    child.send("Node.AttachNodeTracking", {1: pair[1]})
    child.sync()
    assert not pair[0].is_closed()
    collections = allocator.participants(root, child, table=constraints(camping=20))
    assert len(collections[0].wait().buffers) == 40


def test_descriptors_that_come_with_credentials_are_closed_with_the_channel(wire: Wire) -> None:
    """With SO_PASSCRED on the server end, 253 descriptors and credentials arrive together."""
    _, root, child, kept = kept_server_end(wire)
    with socket.socket(fileno=os.dup(kept.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    kept.close()
    mine, theirs = wire.eventpair()
    child.send_bytes(header(0, 0x5CDE8914608D99B1) + b"\xa1\x01\x61n", [theirs] * 253)
    theirs.close()
    assert_close(child, root)
    mine.wait_closed()


def test_a_small_send_buffer_on_the_server_end_and_a_large_answer(wire: Wire) -> None:
    """A response that can't be sent closes its channel, and has no other effect."""
    allocator = wire.connect()
    client, server = wire.pair()
    with socket.socket(fileno=os.dup(server.fileno())) as end:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 0)
    allocator.send("Allocator.AllocateNonSharedCollection", {1: server})
    collection = Collection(wire, client)
    image = {1: 101, 2: 0, 3: [1], 4: [1, 1], 18: [[n, 1000 - n] for n in range(1, 65)]}
    collection.set_constraints(constraints(camping=128, more={8: [image]}))
    with contextlib.suppress(PeerClosed):
        assert len(collection.wait().buffers) == 128
    allocator.sync()
