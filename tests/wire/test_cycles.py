"""No message of a client leaks a descriptor in the daemon, even a descriptor that keeps itself alive.

See `docs/spec/protocol.md`. The daemon may hold a client end in a field or in the queue of a socket. If the node of
that end in turn keeps the socket, it would keep itself alive for ever.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import time
from typing import Any

import pytest

from .process import Daemon
from .raw import PATIENCE, Channel, Collection, Descriptor, Node, PeerClosed, Wire


def stuff(over: Descriptor, *things: Any, data: bytes = b"*", flags: int = 0) -> None:
    """Send descriptors into the other end of an eventpair, if it accepts them."""
    with (
        socket.socket(fileno=os.dup(over.fileno())) as end,
        contextlib.suppress(BrokenPipeError, ConnectionResetError),
    ):
        fds = array.array("i", [thing.fileno() for thing in things])
        end.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)], flags)


def track(node: Node, end: Any, method: str) -> None:
    table = {1: end} if method == "Node.AttachNodeTracking" else {1: end, 2: 0}
    node.send(method, table)


METHODS = ["Node.AttachNodeTracking", "BufferCollection.AttachLifetimeTracking"]


@pytest.mark.parametrize("method", METHODS)
def test_the_nodes_own_client_end_is_no_eventpair(wire: Wire, method: str) -> None:
    """It is connected to a named socket, which `docs/spec/linux.md` forbids."""
    collection = wire.connect().non_shared()
    collection.sync()
    track(collection, collection.duplicate(), method)
    collection.assert_closes()


def test_a_connection_to_the_daemon_is_no_eventpair(wire: Wire) -> None:
    collection = wire.connect().non_shared()
    track(collection, wire.connect().duplicate(), METHODS[0])
    collection.assert_closes()


@pytest.mark.parametrize("method", METHODS)
def test_two_nodes_that_hold_each_others_client_end_leak_nothing(wire: Wire, method: str) -> None:
    allocator = wire.connect()
    one, other = allocator.non_shared(), allocator.non_shared()
    one.sync()
    other.sync()
    for node, peer in ((one, other), (other, one)):
        with contextlib.suppress(PeerClosed):
            track(node, peer.duplicate(), method)
    one.close()
    other.close()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("kind", "when"),
    [
        (socket.SOCK_STREAM, "before"),
        (socket.SOCK_STREAM, "before, as urgent data"),
        (socket.SOCK_STREAM, "after"),
        (socket.SOCK_SEQPACKET, "before"),
        (socket.SOCK_SEQPACKET, "after"),
    ],
)
def test_a_client_end_in_the_queue_of_an_eventpair_leaks_nothing(
    wire: Wire, method: str, kind: int, when: str
) -> None:
    collection = wire.connect().non_shared()
    client, server = wire.pair(kind)
    mine = Descriptor(wire, client.detach())
    if when == "before":
        # with an empty datagram first, which does not end the channel
        stuff(mine, collection, mine, data=b"" if kind == socket.SOCK_SEQPACKET else b"*")
        stuff(mine, collection, mine)
    elif when == "before, as urgent data":
        stuff(mine, collection, mine, flags=socket.MSG_OOB)
    track(collection, server, method)
    collection.sync()
    if when == "after":
        stuff(mine, collection, mine)
    collection.close()
    mine.close()


@pytest.mark.parametrize("flags", [0, socket.MSG_OOB], ids=["", "as urgent data"])
def test_an_event_whose_client_keeps_its_end_nowhere_else_is_given_up(
    daemon: Daemon, wire: Wire, flags: int
) -> None:
    collection = wire.connect().non_shared()
    collection.sync()
    before = len(daemon.descriptors())
    for _ in range(20):
        mine, server = wire.eventpair()
        stuff(mine, mine, flags=flags)
        track(collection, server, METHODS[0])
        mine.close()
    deadline = time.monotonic() + PATIENCE
    while len(daemon.descriptors()) > before:
        assert time.monotonic() < deadline
        collection.sync()


def test_a_client_end_in_the_queue_of_close_weak_asap_leaks_nothing(wire: Wire) -> None:
    allocator, root, child = wire.root_and_child(weak=True)
    strong, weak = allocator.participants(root, child)
    event = weak.wait().close_weak_asap()
    stuff(event, strong, weak, event)


def test_a_client_end_in_its_own_queue_once_its_node_is_finished_leaks_nothing(wire: Wire) -> None:
    """Unread responses keep the old end of a turned-in token open. It must not keep itself open."""
    allocator, root = wire.root()
    for txid in range(1, 1000):
        root.send("Node.Sync", txid=txid)
    collection: Collection = allocator.bind(root.duplicate())
    collection.sync()
    own = Channel(wire, root.socket.dup())
    with contextlib.suppress(PeerClosed):
        own.send_bytes(b"*", [own])
    own.close()
    root.close()
    collection.sync()
    # and the old end is closed while the collection lives on
    collection.allocate()
