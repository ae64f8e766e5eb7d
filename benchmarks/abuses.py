"""What a hostile or careless user does to a daemon: each abuse is a process that goes on until it is killed.

They send datagrams to the daemon without the client library, which would prevent the misuse.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import constraints as kinds

from sysmem_protocol import codec, inspector, sysmem2
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Method, Table
from sysmem_protocol.message import FLAGS, HEADER, MAGIC, MAX_MESSAGE_BYTES
from sysmem_protocol.sysmem2 import (
    Allocator,
    BufferCollection,
    BufferCollectionToken,
    BufferCollectionTokenGroup,
    Node,
)

CHANNELS = 256
TREE_NODES = 4000
UNREAD_ANSWERS = 1000
SAME_RIGHTS = 0x80000000
#: Nodes that one DuplicateSync makes.
_AT_ONCE = 64


class Channel:
    """A client end without the checks of the client library."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self._txids = itertools.count(1)

    def fileno(self) -> int:
        return self.sock.fileno()

    def send(self, method: Method, request: Table | None = None) -> None:
        """Send a request, and wait for room but not for a response. Raises `OSError` if the channel is closed."""
        body, handles = (b"", []) if request is None else codec.encode(request)
        txid = next(self._txids) & 0x7FFF_FFFF or 1 if method.two_way else 0
        data = HEADER.pack(txid, FLAGS, MAGIC, method.ordinal) + body
        try:
            socket.send_fds(self.sock, [data], [handle.fileno() for handle in handles])
        finally:
            for handle in handles:
                handle.close()

    def receive(self) -> tuple[bytes, list[int]]:
        """Return the body and descriptors of the next response. Raises `OSError` if the channel is closed."""
        data, fds, _, _ = socket.recv_fds(self.sock, MAX_MESSAGE_BYTES, 253)
        if not data:
            raise ConnectionResetError("closed")
        return data[HEADER.size :], list(fds)

    def call(self, method: Method, request: Table | None = None) -> tuple[bytes, list[int]]:
        """Send a request and wait for the answer."""
        self.send(method, request)
        return self.receive()

    def sync(self) -> None:
        """Wait until the daemon has processed everything that was sent."""
        self.call(Node.sync)

    def close(self) -> None:
        self.sock.close()


class User:
    """A user with access to the services of a daemon."""

    def __init__(self, runtime_dir: Path) -> None:
        self._runtime_dir = runtime_dir

    def connect(self, service: str = Allocator.service_name()) -> Channel:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        sock.connect(str(self._runtime_dir / service))
        return Channel(sock)

    def pair(self) -> tuple[Channel, Handle]:
        """Return a new channel, and its server end to send."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        return Channel(near), Handle(far.detach())

    def token(self, allocator: Channel) -> Channel:
        """Return the root token of a new collection."""
        token, far = self.pair()
        allocator.send(
            Allocator.allocate_shared_collection,
            sysmem2.AllocatorAllocateSharedCollectionRequest(token_request=far),
        )
        return token

    def collection(self, allocator: Channel) -> Channel:
        """Return a new collection with one participant."""
        collection, far = self.pair()
        allocator.send(
            Allocator.allocate_non_shared_collection,
            sysmem2.AllocatorAllocateNonSharedCollectionRequest(collection_request=far),
        )
        return collection

    def bind(self, allocator: Channel, token: Channel) -> Channel:
        """Turn in a token."""
        collection, far = self.pair()
        allocator.send(
            Allocator.bind_shared_collection,
            sysmem2.AllocatorBindSharedCollectionRequest(
                token=Handle(token.sock.detach()), buffer_collection_request=far
            ),
        )
        return collection

    def tokens(self) -> list[Channel]:
        """Return the root tokens of :data:`CHANNELS` new collections, each on its own channel."""
        allocator = self.connect()
        made = [self.token(allocator) for _ in range(CHANNELS)]
        for token in made:
            token.sync()
        return made


def flood(user: User) -> None:
    """256 channels, valid one-way messages"""
    tokens = user.tokens()
    name = sysmem2.NodeSetNameRequest(priority=1, name="flood")
    while True:
        for token in tokens:
            token.send(Node.set_name, name)


def calls(user: User) -> None:
    """256 channels, calls"""
    tokens = user.tokens()
    while True:
        for token in tokens:
            token.send(Node.sync)
        for token in tokens:
            token.receive()


def garbage(user: User) -> None:
    """256 channels, garbage"""
    while True:
        allocator = user.connect()
        made = [user.token(allocator) for _ in range(CHANNELS)]
        for token in made:
            token.sock.send(b"garbage")
        for token in made:
            token.close()
        allocator.close()


def connects(user: User) -> None:
    """opens and drops connections"""
    while True:
        user.connect().close()


def never_reads(user: User) -> None:
    """never reads 1,000 answers on each of 256 channels"""
    while True:
        tokens = user.tokens()
        for _ in range(UNREAD_ANSWERS):
            for token in tokens:
                token.send(Node.sync)
        for token in tokens:
            token.close()


def trees(user: User) -> None:
    """makes and kills trees of 4,000 nodes"""
    while True:
        allocator = user.connect()
        root = user.token(allocator)
        request = sysmem2.CreateTokensRequest(rights_attenuation_masks=[SAME_RIGHTS] * _AT_ONCE)
        fds: list[int] = []
        while len(fds) < TREE_NODES:
            fds += root.call(BufferCollectionToken.duplicate_sync, request)[1]
        root.close()
        for fd in fds:
            os.close(fd)
        allocator.close()


def groups(user: User) -> None:
    """64 KiB constraints, 64 group selections"""
    costly = [_largest(kinds.hostile, index) for index in range(2)]
    while True:
        allocator = user.connect()
        root = user.token(allocator)
        group, far = user.pair()
        root.send(
            BufferCollectionToken.create_buffer_collection_token_group,
            sysmem2.BufferCollectionTokenCreateBufferCollectionTokenGroupRequest(group_request=far),
        )
        request = sysmem2.CreateTokensRequest(rights_attenuation_masks=[SAME_RIGHTS] * 64)
        _, fds = group.call(BufferCollectionTokenGroup.create_children_sync, request)
        group.send(BufferCollectionTokenGroup.all_children_present)
        children = [user.bind(allocator, Channel(socket.socket(fileno=fd))) for fd in fds]
        for child in children:
            child.send(BufferCollection.set_constraints, costly[0])
        collection = user.bind(allocator, root)
        collection.send(BufferCollection.set_constraints, costly[1])
        collection.call(BufferCollection.wait_for_all_buffers_allocated)
        for channel in (*children, group, collection, allocator):
            channel.close()


def lone(user: User) -> None:
    """64 KiB constraints, lone participants"""
    costly = _largest(kinds.hostile, 0)
    while True:
        allocator = user.connect()
        collections = [user.collection(allocator) for _ in range(16)]
        for collection in collections:
            collection.send(BufferCollection.set_constraints, costly)
        for collection in collections:
            with contextlib.suppress(OSError):  # it was refused
                collection.sync()
            collection.close()
        allocator.close()


def verbose(user: User) -> None:
    """verbose logs of 64 KiB constraints"""
    costly = _largest(kinds.one_list, 0)
    while True:
        allocator = user.connect()
        collection = user.collection(allocator)
        collection.send(Node.set_verbose_logging)
        collection.send(BufferCollection.set_constraints, costly)
        with contextlib.suppress(OSError):  # it was refused
            collection.sync()
        collection.close()
        allocator.close()


def snapshots(user: User) -> None:
    """snapshots all the time, with 4,000 nodes"""
    root = user.token(user.connect())
    request = sysmem2.CreateTokensRequest(rights_attenuation_masks=[SAME_RIGHTS] * _AT_ONCE)
    kept: list[int] = []
    while len(kept) < TREE_NODES:
        kept += root.call(BufferCollectionToken.duplicate_sync, request)[1]
    channel = user.connect(inspector.Inspector.service_name())
    while True:
        _, fds = channel.call(inspector.Inspector.snapshot, inspector.InspectorSnapshotRequest())
        for fd in fds:
            os.close(fd)


def stopped(user: User) -> None:
    """is stopped with a backlog of large unread answers"""
    allocator = user.connect()
    collection = user.collection(allocator)
    collection.send(BufferCollection.set_constraints, _many_buffers())
    for _ in range(100):
        collection.send(BufferCollection.wait_for_all_buffers_allocated)
    tokens = user.tokens()
    while True:
        for token in tokens:
            for _ in range(60):
                token.send(Node.sync)
        os.kill(os.getpid(), 19)
        time.sleep(0.05)


ABUSES: dict[str, Callable[[User], None]] = {
    function.__name__: function
    for function in (
        flood,
        calls,
        garbage,
        connects,
        never_reads,
        trees,
        groups,
        lone,
        verbose,
        snapshots,
        stopped,
    )
}


def _largest(make: kinds.Make, index: int) -> sysmem2.BufferCollectionSetConstraintsRequest:
    """Return the largest request of a kind that fits into a message."""
    for formats in _counts():
        request = sysmem2.BufferCollectionSetConstraintsRequest(constraints=make(index, formats))
        try:
            codec.encode(request)
        except codec.EncodeValueError:
            continue
        return request
    raise AssertionError("none fits")


def _counts() -> Iterator[int]:
    return iter(range(64, 0, -1))


def _many_buffers() -> sysmem2.BufferCollectionSetConstraintsRequest:
    """Return constraints that require 128 small buffers."""
    return sysmem2.BufferCollectionSetConstraintsRequest(
        constraints=sysmem2.BufferCollectionConstraints(
            usage=sysmem2.BufferUsage(cpu=sysmem2.CpuUsage.READ_OFTEN),
            min_buffer_count=128,
            buffer_memory_constraints=sysmem2.BufferMemoryConstraints(min_size_bytes=4096),
        )
    )
