"""A client of the daemon that shares no code with the package.

Its messages are those of :mod:`.protocol`. A `Wire` closes everything that it has created or received.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..closes import ClosesWithBlock
from ..mapping import BareMapping
from .protocol import (
    MAX_DESCRIPTORS,
    MAX_MESSAGE,
    METHODS,
    SAME_RIGHTS,
    constraints,
    decode,
    encode,
    header,
)

PATIENCE = 120.0  # seconds; only a failing test waits that long


class PeerClosed(Exception):
    """The other end is closed."""


class Refused(Exception):
    """The response was an `Error`."""

    def __init__(self, error: int) -> None:
        super().__init__(error)
        self.error = error


class Descriptor:
    """One descriptor that the test owns."""

    def __init__(self, wire: Wire, fd: int) -> None:
        self.wire = wire
        self._fd = fd
        wire.own(self)

    def fileno(self) -> int:
        assert self._fd >= 0, "closed already"
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def duplicate(self) -> Descriptor:
        return Descriptor(self.wire, os.dup(self.fileno()))

    def is_closed(self, patience: float = 0.0) -> bool:
        """Return whether the other end of this eventpair is closed."""
        poll = select.poll()
        poll.register(self.fileno(), select.POLLRDHUP)
        return bool(poll.poll(patience * 1000))

    def wait_closed(self) -> None:
        assert self.is_closed(PATIENCE), "the eventpair stays open"

    def target(self) -> str:
        return os.readlink(f"/proc/self/fd/{self.fileno()}")

    def size(self) -> int:
        return os.fstat(self.fileno()).st_size

    def map(self, *, write: bool = True) -> BareMapping:
        mapping = BareMapping(self.fileno(), self.size(), write=write)
        self.wire.own(mapping)
        return mapping


@dataclass(slots=True)
class Message:
    txid: int
    flags: bytes
    magic: int
    ordinal: int
    body: Any  # the table with a `Descriptor` for each handle; None if empty
    raw: bytes
    descriptors: list[Descriptor]
    parts: int = 1  # the number of its datagrams

    def result(self) -> Any:
        """Return the response table of a method that can fail."""
        assert isinstance(self.body, dict)
        assert len(self.body) == 1
        if 2 in self.body:
            raise Refused(self.body[2])
        return self.body[1]


class Wire(ClosesWithBlock):
    """A test's connections to one daemon."""

    def __init__(self, runtime_dir: Path | str) -> None:
        self.directory = Path(runtime_dir)
        self.path = self.directory / "fuchsia.sysmem2.Allocator"
        self._owned: list[Any] = []

    def own(self, closeable: Any) -> None:
        self._owned.append(closeable)

    def close(self) -> None:
        while self._owned:
            self._owned.pop().close()

    def connect(self) -> Allocator:
        return Allocator(self, self._connected(self.path))

    def rendezvous(self) -> Rendezvous:
        return Rendezvous(self, self._connected(self.directory / "sysmem.Rendezvous"))

    def _connected(self, path: Path) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.settimeout(PATIENCE)
            connection.connect(os.fspath(path))
        except BaseException:
            connection.close()
            raise
        return connection

    def root(self) -> tuple[Allocator, Token]:
        """Return a new connection, and the root token of a new collection."""
        allocator = self.connect()
        return allocator, allocator.shared()

    def root_and_child(
        self, mask: int = SAME_RIGHTS, *, weak: bool = False
    ) -> tuple[Allocator, Token, Token]:
        """Return the same as `root`, and a child token. The daemon knows both tokens already."""
        allocator, root = self.root()
        child = root.duplicate_token(mask)
        if weak:
            child.set_weak()
        child.sync()
        return allocator, root, child

    def two(self) -> tuple[Allocator, Collection, Collection]:
        """Return a connection, and the collections of a root and its child."""
        allocator, root, child = self.root_and_child()
        return allocator, allocator.bind(root), allocator.bind(child)

    def chain(self) -> tuple[Allocator, Token, Token, Token]:
        """Return the same as `root_and_child`, and a child of the child."""
        allocator, root, child = self.root_and_child()
        grandchild = child.duplicate_token()
        child.sync()
        return allocator, root, child, grandchild

    def strong_and_weak(self, *, camping: int = 2) -> tuple[Allocator, Collection, Collection]:
        """Return a strong root and its weak child, each with constraints. The root asks for all buffers."""
        allocator, root, child = self.root_and_child(weak=True)
        strong, weak = allocator.bind(root), allocator.bind(child)
        strong.set_constraints(constraints(camping=camping))
        weak.set_constraints(constraints(camping=0))
        return allocator, strong, weak

    def group_of(self, count: int) -> tuple[Allocator, Token, Group, list[Token]]:
        """Return the same as `root`, and a group below it with `count` children. Further children may follow."""
        allocator, root = self.root()
        group = root.group()
        return allocator, root, group, group.children_sync([SAME_RIGHTS] * count)

    def allocated(self, **table: Any) -> tuple[Collection, Info]:
        """Return a collection with one participant, and its buffers. `table` is passed to `constraints`."""
        collection = self.connect().non_shared()
        return collection, collection.allocate(**table)

    def pair(self, kind: int = socket.SOCK_SEQPACKET) -> tuple[socket.socket, Descriptor]:
        """Return a new channel: the client end, and the server end to send."""
        client, server = socket.socketpair(socket.AF_UNIX, kind)
        self.own(client)
        return client, Descriptor(self, server.detach())

    def eventpair(self) -> tuple[Descriptor, Descriptor]:
        client, server = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        return Descriptor(self, client.detach()), Descriptor(self, server.detach())

    def file(self, path: str = "/dev/null", flags: int = os.O_RDWR) -> Descriptor:
        return Descriptor(self, os.open(path, flags | os.O_CLOEXEC))

    def memfd(self, size: int = 4096) -> Descriptor:
        fd = os.memfd_create("foreign", os.MFD_CLOEXEC)
        os.ftruncate(fd, size)
        return Descriptor(self, fd)

    def eventfd(self) -> Descriptor:
        return Descriptor(self, os.eventfd(0, os.EFD_CLOEXEC))


class Channel:
    """A client end. Descriptors that are sent move: this process closes its own."""

    def __init__(self, wire: Wire, client: socket.socket) -> None:
        self.wire = wire
        self.socket = client
        self.socket.settimeout(PATIENCE)
        self._txid = 0
        self._answers: dict[int, Message] = {}
        wire.own(self)

    def fileno(self) -> int:
        return self.socket.fileno()

    def close(self) -> None:
        self.socket.close()

    def duplicate(self) -> Descriptor:
        return Descriptor(self.wire, os.dup(self.fileno()))

    def koid(self) -> int:
        """The koid at the end of the peer's name, `/<koid>` (`docs/spec/linux.md`); 0 while the peer has no name."""
        name = self.socket.getpeername()
        return int(bytes(name).rsplit(b"/", 1)[1]) if name else 0

    # Sending

    def send_bytes(self, data: bytes, descriptors: Sequence[Any] = ()) -> None:
        """Send one datagram. The caller still owns the descriptors."""
        fds = array.array("i", [d.fileno() for d in descriptors])
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)] if fds else []
        try:
            self.socket.sendmsg([data], control)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise PeerClosed from error

    def send(self, method: str, table: Mapping[int, Any] | None = None, *, txid: int = 0) -> None:
        body, handles = encode(table)
        self.send_bytes(header(txid, METHODS[method][0]) + body, handles)
        for handle in handles:
            handle.close()

    def request(self, method: str, table: Mapping[int, Any] | None = None) -> int:
        """Send a call and return its txid. `answer` returns the response."""
        self._txid += 1
        self.send(method, table, txid=self._txid)
        return self._txid

    def call(self, method: str, table: Mapping[int, Any] | None = None) -> Message:
        return self.answer(self.request(method, table))

    # Receiving

    def answer(self, txid: int) -> Message:
        while txid not in self._answers:
            message = self.receive()
            assert message.txid not in self._answers, "answered twice"
            self._answers[message.txid] = message
        return self._answers.pop(txid)

    def receive(self) -> Message:
        """Return the next whole message."""
        descriptors: list[Descriptor] = []
        parts = 0
        while True:
            data = self._datagram(descriptors)
            parts += 1
            assert len(data) >= 16, data
            txid, flags, magic, ordinal = struct.unpack("<I3sBQ", data[:16])
            assert (flags[0], flags[2], magic) == (2, 0x80, 1), data[:16].hex()
            if flags[1] == 1:
                assert len(data) == 16
                continue
            assert flags[1] == 0
            body = decode(data[16:], descriptors) if data[16:] else None
            return Message(txid, flags, magic, ordinal, body, data, descriptors, parts)

    def _datagram(self, descriptors: list[Descriptor]) -> bytes:
        while True:
            try:
                data, control, flags, _ = self.socket.recvmsg(
                    MAX_MESSAGE + 1,
                    socket.CMSG_SPACE(MAX_DESCRIPTORS * 4),
                    socket.MSG_CMSG_CLOEXEC,
                )
            except ConnectionResetError:
                continue  # `docs/spec/linux.md`: it is reported once, and queued messages follow
            break
        fds = array.array("i")
        for level, kind, content in control:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds.frombytes(content)
        descriptors.extend(Descriptor(self.wire, fd) for fd in fds)
        assert not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC)
        if not data:
            raise PeerClosed
        return data

    def rest(self) -> list[Message]:
        """Return the remaining messages until the other end closes. Waits for that."""
        messages = []
        with contextlib.suppress(PeerClosed):
            while True:
                messages.append(self.receive())
        return messages

    def assert_closes(self) -> None:
        """Check that the other end closes without another message."""
        assert self.rest() == []


def assert_close(*channels: Channel) -> None:
    """The other ends of all these close, and say nothing more."""
    for channel in channels:
        channel.assert_closes()


class Rendezvous(Channel):
    def offer(self, name: str, token: Channel | Descriptor, to_uid: int | None = None) -> int:
        """Offer a token, which moves. Return the txid for `answer`."""
        given = token.duplicate()
        token.close()
        to = {} if to_uid is None else {3: to_uid}
        return self.request("Rendezvous.Offer", {1: name, 2: given, **to})

    def take(self, name: str) -> int:
        return self.request("Rendezvous.Take", {1: name})

    def taken(self, txid: int) -> Token:
        """Return the token in the response to a take."""
        table = self.answer(txid).body
        assert list(table) == [1]
        return Token(self.wire, socket.socket(fileno=os.dup(table[1].fileno())))


class Allocator(Channel):
    def shared(self) -> Token:
        client, server = self.wire.pair()
        self.send("Allocator.AllocateSharedCollection", {1: server})
        return Token(self.wire, client)

    def non_shared(self) -> Collection:
        client, server = self.wire.pair()
        self.send("Allocator.AllocateNonSharedCollection", {1: server})
        return Collection(self.wire, client)

    def bind(self, token: Channel | Descriptor) -> Collection:
        client, server = self.wire.pair()
        self.send("Allocator.BindSharedCollection", {1: token, 2: server})
        return Collection(self.wire, client)

    def participants(
        self, *tokens: Channel | Descriptor, table: Mapping[int, Any] | None = None
    ) -> list[Collection]:
        """Bind each token and set the same constraints on each collection."""
        collections = [self.bind(token) for token in tokens]
        for collection in collections:
            collection.set_constraints(constraints() if table is None else table)
        return collections

    def validate(self, koid: int) -> bool:
        answer = self.call("Allocator.ValidateBufferCollectionToken", {1: koid}).body[1]
        assert isinstance(answer, bool)
        return answer

    def sync(self) -> None:
        """Do a round trip. The koid 0 belongs to no token."""
        assert self.validate(0) is False

    def set_debug_client_info(self, name: str, client_id: int) -> None:
        self.send("Allocator.SetDebugClientInfo", {1: name, 2: client_id})

    def vmo_info(self, vmo: Any, **fields: Any) -> Any:
        """Call GetVmoInfo with a duplicate. Return the fields by their names in `_VMO_INFO`."""
        table = {1: vmo.duplicate()} if vmo is not None else {}
        table |= {_VMO_INFO[name]: value for name, value in fields.items()}
        return self.call("Allocator.GetVmoInfo", table).result()


_VMO_INFO = {
    "need_weak": 2,
    "need_settings": 3,
    "constraints": 4,
    "settings_of": 5,
    "ignore_size": 6,
}


class Node(Channel):
    def sync(self) -> None:
        assert self.call("Node.Sync").body is None

    def release(self) -> None:
        self.send("Node.Release")

    def release_and_close(self) -> None:
        self.release()
        self.close()

    def set_name(self, priority: int, name: str) -> None:
        self.send("Node.SetName", {1: priority, 2: name})

    def set_debug_client_info(self, name: str, client_id: int) -> None:
        self.send("Node.SetDebugClientInfo", {1: name, 2: client_id})

    def set_weak(self) -> None:
        self.send("Node.SetWeak")

    def set_weak_ok(self, *, children: bool | None = None) -> None:
        self.send("Node.SetWeakOk", {} if children is None else {1: children})

    def node_ref(self) -> Descriptor:
        ref = self.call("Node.GetNodeRef").body[1]
        assert isinstance(ref, Descriptor)
        return ref

    def is_alternate_for(self, ref: Descriptor) -> bool:
        result = self.call("Node.IsAlternateFor", {1: ref.duplicate()}).result()
        assert isinstance(result[1], bool)
        return result[1]

    def collection_id(self) -> int:
        return int(self.call("Node.GetBufferCollectionId").body[1])

    def track_node(self) -> Descriptor:
        client, server = self.wire.eventpair()
        self.send("Node.AttachNodeTracking", {1: server})
        return client


class Token(Node):
    def duplicate_token(self, mask: int = SAME_RIGHTS) -> Token:
        client, server = self.wire.pair()
        self.send("BufferCollectionToken.Duplicate", {1: mask, 2: server})
        return Token(self.wire, client)

    def duplicate_sync(self, masks: Sequence[int]) -> list[Token]:
        answer = self.call("BufferCollectionToken.DuplicateSync", {1: list(masks)})
        return [token_of(end) for end in answer.body[1]]

    def set_dispensable(self) -> None:
        self.send("BufferCollectionToken.SetDispensable")

    def group(self) -> Group:
        client, server = self.wire.pair()
        self.send("BufferCollectionToken.CreateBufferCollectionTokenGroup", {1: server})
        return Group(self.wire, client)


def token_of(end: Descriptor) -> Token:
    return Token(end.wire, socket.socket(fileno=take(end)))


def take(descriptor: Descriptor) -> int:
    """Return the descriptor's number. The `Descriptor` no longer owns it."""
    fd = descriptor.fileno()
    descriptor._fd = -1
    return fd


class Collection(Node):
    def set_constraints(
        self, constraints: Mapping[int, Any] | None, must_match: Descriptor | None = None
    ) -> None:
        table: dict[int, Any] = {} if constraints is None else {1: dict(constraints)}
        if must_match is not None:
            table[2] = must_match.duplicate()
        self.send("BufferCollection.SetConstraints", table)

    def request_wait(self) -> int:
        return self.request("BufferCollection.WaitForAllBuffersAllocated")

    def request_with(self, constraints: Mapping[int, Any]) -> int:
        """Set constraints and request the wait. The daemon has processed both when this returns."""
        self.set_constraints(constraints)
        wait = self.request_wait()
        self.sync()
        return wait

    def allocate(self, **table: Any) -> Info:
        """Set constraints and wait. `table` is passed to `constraints`."""
        self.set_constraints(constraints(**table))
        return self.wait()

    def wait_answer(self, txid: int) -> Info:
        return Info(self.answer(txid))

    def wait(self) -> Info:
        return self.wait_answer(self.request_wait())

    def wait_error(self) -> int:
        try:
            self.wait()
        except Refused as refused:
            return refused.error
        raise AssertionError("allocated")

    def check(self) -> int | None:
        """Return the error of CheckAllBuffersAllocated; None is success."""
        try:
            assert self.call("BufferCollection.CheckAllBuffersAllocated").result() == {}
        except Refused as refused:
            return refused.error
        return None

    def attach(self, mask: int = SAME_RIGHTS) -> Token:
        client, server = self.wire.pair()
        self.send("BufferCollection.AttachToken", {1: mask, 2: server})
        return Token(self.wire, client)

    def track_lifetime(self, buffers_remaining: int = 0) -> Descriptor:
        client, server = self.wire.eventpair()
        self.send("BufferCollection.AttachLifetimeTracking", {1: server, 2: buffers_remaining})
        return client


class Group(Node):
    def child(self, mask: int | None = None) -> Token:
        client, server = self.wire.pair()
        table: dict[int, Any] = {1: server}
        if mask is not None:
            table[2] = mask
        self.send("BufferCollectionTokenGroup.CreateChild", table)
        return Token(self.wire, client)

    def children_sync(self, masks: Sequence[int]) -> list[Token]:
        answer = self.call("BufferCollectionTokenGroup.CreateChildrenSync", {1: list(masks)})
        return [token_of(end) for end in answer.body[1]]

    def all_children_present(self) -> None:
        self.send("BufferCollectionTokenGroup.AllChildrenPresent")


class Info:
    """A BufferCollectionInfo."""

    def __init__(self, message: Message) -> None:
        self.message = message
        self.table = message.result()[1]
        self.buffers: list[dict[int, Any]] = self.table[2]
        self.collection_id: int = self.table[3]
        self.settings: dict[int, Any] = self.table[1]
        self.memory: dict[int, Any] = self.table[1][1]

    def vmo(self, index: int = 0) -> Descriptor:
        vmo = self.buffers[index][1]
        assert isinstance(vmo, Descriptor)
        return vmo

    def close_weak_asap(self, index: int = 0) -> Descriptor:
        event = self.buffers[index][3]
        assert isinstance(event, Descriptor)
        return event

    def close(self) -> None:
        for descriptor in self.message.descriptors:
            descriptor.close()


# Descriptors over the tests' own sockets


def send_descriptors(over: socket.socket, *things: Any) -> None:
    socket.send_fds(over, [b"*"], [thing.fileno() for thing in things])


def receive_descriptors(wire: Wire, over: socket.socket) -> list[Descriptor]:
    over.settimeout(PATIENCE)
    data, fds, _, _ = socket.recv_fds(over, 1, 16)
    if not data:
        raise PeerClosed
    return [Descriptor(wire, fd) for fd in fds]


def until(deadline: float = PATIENCE) -> Iterator[None]:
    """Yield iterations, and fail if the loop has not ended in time."""
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        yield
    raise AssertionError("it does not come about")
