"""A service without an event loop: a reactor that tests run, and clients over real sockets."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
import struct
import sys
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, NoReturn, TypeVar

from sysmem_protocol import codec, sysmem2
from sysmem_protocol.channel import AT_ONCE, Channel, PeerClosedError
from sysmem_protocol.handles import Handle, channel_pair
from sysmem_protocol.library import Method, Table
from sysmem_protocol.message import Message, parse
from sysmem_protocol.sysmem2 import (
    Allocator,
    BufferCollection,
    BufferCollectionToken,
    BufferCollectionTokenGroup,
    Node,
)
from sysmemd.channels import AllocatorServer, Connection, RendezvousServer, Service
from sysmemd.config import InspectSection, Limits
from sysmemd.constraints import Platform
from sysmemd.in_flight import InFlight
from sysmemd.memory import Memory
from sysmemd.pause import Holder
from sysmemd.ports import Peer
from sysmemd.quota import Exceeded
from sysmemd.users import User

from ..recording import RecordingLog

SAME_RIGHTS = 0x80000000
STRANGER = 4711
T = TypeVar("T")

_decoder = codec.Decoder()


class Clock:
    """A clock that makes no calls by itself."""

    def __init__(self) -> None:
        self.calls: list[list[Callable[[], None]]] = []
        self._deadlines: list[int] = []

    def now(self) -> int:
        return time.monotonic_ns()

    def call_at(self, deadline: int, callback: Callable[[], None]) -> Callable[[], None]:
        call = [callback]
        self.calls.append(call)
        self._deadlines.append(deadline)
        return call.clear

    def run_due(self) -> bool:
        """Make the calls that are due. Return whether there were any."""
        now = self.now()
        due = [call for call, at in zip(self.calls, self._deadlines, strict=True) if at <= now]
        made = False
        for call in due:
            for callback in call:
                made = True
                callback()
            call.clear()
        return made


def none_left(*_: object, **__: object) -> NoReturn:
    """Fail as a system call does in a process that has no descriptor left."""
    raise OSError(errno.EMFILE, "Too many open files")


class HandReactor:
    """Does its work when `run` is called."""

    def __init__(self, do: Callable[[Callable[[], object]], object] = lambda work: work()) -> None:
        """Create a reactor. `do` receives from connections and executes work in turn. It may postpone both."""
        self._do = do
        self.served: list[Connection] = []
        self.held: set[Connection] = set()
        self.to_flush: list[Connection] = []
        self.closed: list[Connection] = []

    def serve(self, connection: Connection) -> None:
        self.served.append(connection)

    def connections(self) -> list[Connection]:
        return [connection for connection in self.served if not connection.closed]

    def hold(self, connection: Connection, holder: Holder) -> None:
        self.held.add(connection)
        holder.when_idle(lambda: self.held.discard(connection))

    def flush(self, connection: Connection) -> None:
        self.to_flush.append(connection)

    def closing(self, connection: Connection) -> None:
        assert connection.fileno() >= 0
        self.closed.append(connection)

    def in_turn(self, user: User, work: Callable[[], None], *, apart: bool = False) -> None:
        self._do(work)

    def run(self) -> None:
        """Receive and flush until there is nothing left to do."""
        while self.receive_all() or self._flush_all():
            pass

    def receive_all(self) -> bool:
        """Receive until nothing is left to receive. Return whether there was anything."""
        self.served = [connection for connection in self.served if not connection.closed]
        received = False
        for connection in self.served:
            while connection.reading and connection not in self.held and _readable(connection):
                before = connection.received
                self._do(connection.receive)
                if connection.reading and connection.received == before:
                    break  # it is held
                received = True
        return received

    def _flush_all(self) -> bool:
        flushing, self.to_flush = self.to_flush, []
        waiting = [connection for connection in flushing if not connection.flush()]
        self.to_flush += waiting
        return len(waiting) < len(flushing)


def _readable(connection: Connection) -> bool:
    poll = select.poll()
    poll.register(connection.fileno(), select.POLLIN)
    return bool(poll.poll(0))


class Client:
    """A client end that sends each message at once."""

    def __init__(self, bench: Bench, channel: Channel) -> None:
        self._bench = bench
        self.channel = channel
        self._txid = 0

    def send(self, method: Method, request: Table | None = None, txid: int | None = None) -> int:
        """Send a request and close its handles. Return the txid."""
        if txid is None:
            self._txid += method.two_way
            txid = self._txid if method.two_way else 0
        body, handles = (b"", []) if request is None else codec.encode(request)
        self.send_raw(Message(txid, method.ordinal, body, handles))
        return txid

    def send_raw(self, message: Message) -> None:
        with closing(message):
            for data, handles in message.datagrams():
                assert self.channel.send(data, handles)

    def call(self, method: Method, request: Table | None = None) -> Any:
        """Send a request, run the service, and return the response."""
        txid = self.send(method, request)
        self._bench.reactor.run()
        return self.answer(method, txid)

    def answer(self, method: Method, txid: int) -> Any:
        """Return the next message, which must be the response to a call."""
        message = self.message()
        assert message is not None, "no answer"
        assert (message.txid, message.ordinal) == (txid, method.ordinal)
        return _decoder.response(method, message.body, message.handles)

    def message(self) -> Message | None:
        """Return the next message, or None if there is none."""
        received = self.channel.receive()
        return None if received is None else parse(*received)

    def is_closed(self) -> bool:
        """Return whether the server end is closed and nothing is left to read."""
        try:
            received = self.channel.receive()
        except PeerClosedError:
            return True
        assert received is None, received
        return False

    def koid(self) -> int:
        """Return the koid in the name of the server end."""
        return int(self.channel.peer_name().rpartition(b"/")[2])

    def sync(self) -> None:
        self.call(Node.sync)

    def close(self) -> None:
        self.channel.close()

    def duplicate_end(self) -> Handle:
        """Return another descriptor of the client end, to give away."""
        return Handle(fcntl.fcntl(self.channel.fileno(), fcntl.F_DUPFD_CLOEXEC, 0))


class Bench:
    """A service and its clients."""

    def __init__(
        self,
        limits: Limits | None = None,
        do: Callable[[Callable[[], object]], object] = lambda work: work(),
        inspect: InspectSection | None = None,
        in_flight: int = sys.maxsize,
    ) -> None:
        self.log = RecordingLog()
        self.clock = Clock()
        self.reactor = HandReactor(do)
        self.memory = Memory(clock=self.clock, log=self.log)
        self.in_flight = InFlight(in_flight, AT_ONCE, self.reactor.in_turn)
        self.service = Service(
            in_flight=self.in_flight,
            limits=limits or Limits(),
            platform=Platform(),
            memory=self.memory,
            clock=self.clock,
            reactor=self.reactor,
            log=self.log,
            inspect=inspect,
        )
        self._clients: list[Client] = []

    def run(self) -> None:
        self.reactor.run()

    def close(self) -> None:
        """End as the daemon does. The clients' ends close too."""
        self.service.close()
        for connection in self.reactor.served:
            connection.close()
        self.in_flight.close()
        self.memory.close()
        for client in self._clients:
            client.close()

    # --- clients ---

    def client(self) -> tuple[Client, Handle]:
        """Create a channel. Return a client with the client end, and the server end to send."""
        near, far = channel_pair()
        made = Client(self, Channel(near.detach()))
        self._clients.append(made)
        return made, Handle(far.detach())

    def adopt(self, handle: Handle) -> Client:
        """Return a client with an end that arrived."""
        made = Client(self, Channel(handle.take()))
        self._clients.append(made)
        return made

    def allocator(self, name: str | None = "tester", id: int = 7, uid: int = STRANGER) -> Client:
        """Return a client of the Allocator, which runs as a user and has set its name unless the name is None."""
        client, far = self.client()
        channel = Channel(far.take())
        try:
            AllocatorServer(self.service, channel, Peer(os.getpid(), uid, uid))
        except Exceeded:
            channel.close()
            raise
        if name is not None:
            info = sysmem2.SetDebugClientInfoRequest(name=name, id=id)
            client.send(Allocator.set_debug_client_info, info)
            self.run()
        return client

    def rendezvous(self, uid: int = STRANGER) -> Client:
        """Return a client of the Rendezvous service, which runs as this user."""
        client, far = self.client()
        RendezvousServer(self.service, Channel(far.take()), Peer(os.getpid(), uid, uid))
        return client

    def create(
        self,
        through: Client,
        method: Method,
        request: Callable[..., Table],
        field: str,
        **more: Any,
    ) -> Client:
        """Send a request with a server end in `field`. Return the client of the object that it creates."""
        client, far = self.client()
        through.send(method, request(**{field: far}, **more))
        self.run()
        return client

    def token(self, allocator: Client | None = None) -> Client:
        """Return the root token of a new collection."""
        method = Allocator.allocate_shared_collection
        request = sysmem2.AllocatorAllocateSharedCollectionRequest
        return self.create(allocator or self.allocator(), method, request, "token_request")

    def collection(self, allocator: Client | None = None) -> Client:
        """Return a new collection with one participant."""
        method = Allocator.allocate_non_shared_collection
        request = sysmem2.AllocatorAllocateNonSharedCollectionRequest
        return self.create(allocator or self.allocator(), method, request, "collection_request")

    def duplicate(self, token: Client) -> Client:
        """A child token."""
        method = BufferCollectionToken.duplicate
        request = sysmem2.BufferCollectionTokenDuplicateRequest
        mask = SAME_RIGHTS
        return self.create(token, method, request, "token_request", rights_attenuation_mask=mask)

    def attach(self, collection: Client) -> Client:
        """Return a token that is attached to a collection."""
        method = BufferCollection.attach_token
        request = sysmem2.BufferCollectionAttachTokenRequest
        mask = SAME_RIGHTS
        return self.create(
            collection, method, request, "token_request", rights_attenuation_mask=mask
        )

    def group(self, token: Client) -> Client:
        """Return a group below a token."""
        method = BufferCollectionToken.create_buffer_collection_token_group
        request = sysmem2.BufferCollectionTokenCreateBufferCollectionTokenGroupRequest
        return self.create(token, method, request, "group_request")

    def group_child(self, group: Client, mask: int | None = None) -> Client:
        """Return a child token of a group."""
        method = BufferCollectionTokenGroup.create_child
        request = sysmem2.BufferCollectionTokenGroupCreateChildRequest
        return self.create(group, method, request, "token_request", rights_attenuation_mask=mask)

    def root_and_child(self) -> tuple[Client, Client]:
        """Return the collections of a new root token and of its child."""
        allocator = self.allocator()
        token = self.token(allocator)
        child = self.duplicate(token)
        return self.bind(token, allocator), self.bind(child, allocator)

    def bind(self, token: Client, allocator: Client | None = None) -> Client:
        """Turn in a token. Its client end closes."""
        client, far = self.client()
        (allocator or self.allocator()).send(
            Allocator.bind_shared_collection,
            sysmem2.AllocatorBindSharedCollectionRequest(
                token=token.duplicate_end(), buffer_collection_request=far
            ),
        )
        token.close()
        self.run()
        return client

    def allocated(self, allocator: Client | None = None) -> Client:
        """Return a collection of two buffers with one participant."""
        client = self.collection(allocator)
        client.send(BufferCollection.set_constraints, wanting())
        self.run()
        return client


def wanting(
    *, camping: int = 2, most: int | None = None, vmo: Handle | None = None
) -> sysmem2.BufferCollectionSetConstraintsRequest:
    """Return constraints of a participant that camps on some buffers of 4 KiB."""
    return sysmem2.BufferCollectionSetConstraintsRequest(
        constraints=sysmem2.BufferCollectionConstraints(
            usage=sysmem2.BufferUsage(cpu=sysmem2.CpuUsage.READ_OFTEN),
            min_buffer_count_for_camping=camping,
            max_buffer_count=most,
            buffer_memory_constraints=sysmem2.BufferMemoryConstraints(min_size_bytes=4096),
        ),
        must_match_vmo=vmo,
    )


def is_closed(watched: Handle) -> bool:
    """Return whether the other end of an eventpair is closed."""
    with socket.socket(fileno=fcntl.fcntl(watched.fileno(), fcntl.F_DUPFD_CLOEXEC, 0)) as sock:
        try:
            return not sock.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK)
        except BlockingIOError:
            return False


def header(txid: int, ordinal: int, flags: bytes = b"\x02\x00\x80", magic: int = 1) -> bytes:
    """Return the header of a message of any kind."""
    return struct.pack("<I3sBQ", txid, flags, magic, ordinal)
