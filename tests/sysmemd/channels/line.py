"""One connection whose server does as a test says, and its client."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, ClassVar

from sysmem_protocol.channel import AT_ONCE, Channel, PeerClosedError
from sysmem_protocol.handles import Handle, channel_pair
from sysmem_protocol.library import Interface, Method, Table
from sysmem_protocol.message import Message, parse
from sysmem_protocol.sysmem2 import (
    BufferCollection,
    Error,
)
from sysmemd.channels.connection import Connection, Tracer
from sysmemd.channels.deferred import Deferred
from sysmemd.channels.server import NOBODY
from sysmemd.config import Limits
from sysmemd.in_flight import InFlight
from sysmemd.pause import Holder
from sysmemd.ports import Peer
from sysmemd.tree import Misuse

from ..accounts import new_users
from ..recording import RecordingLog
from .support import STRANGER, HandReactor, header


class Made:
    """A response that is created by a function."""

    def __init__(self, make: Callable[[], Table | Error | None]) -> None:
        self.make = make
        self.times_done = 0

    def instead(self, error: OSError) -> Error:
        return Error.NO_MEMORY

    def done(self) -> None:
        self.times_done += 1


class StubServer:
    """Answers as `serve` says. Closes the connection if the connection tells it to end."""

    interface: ClassVar[type[Interface]] = BufferCollection
    connection: Connection

    def __init__(self, interface: type[Interface]) -> None:
        self.interface = interface  # type: ignore[misc] # one class for all of them
        self.called: list[tuple[str, Table | None]] = []
        self.serve: Callable[..., Any] = lambda *_: None
        self.reasons: list[str] = []
        self.peer_closings = 0
        self.silent = False
        #: Whether messages were still received when the server was told of the end.
        self.told_while_reading = False
        self.at_the_end: Callable[[], None] = lambda: None
        self.holder: Holder | None = None

    def held_by(self) -> Holder | None:
        return self.holder

    def changed_by(self) -> None:
        """Return None: no collection changes the served object."""

    def about(self) -> dict[str, Any]:
        return {"client_name": "camera", "client_id": 7}

    def expect_message(self) -> None:
        if self.silent:
            raise Misuse("a message on a released token")

    def refuse(self, reason: str) -> None:
        self.reasons.append(reason)
        self.told_while_reading |= self.connection.reading
        self.at_the_end()
        self.connection.finish()

    def failed(self, reason: str) -> None:
        self.refuse(reason)

    def peer_closed(self) -> None:
        self.peer_closings += 1
        self.told_while_reading |= self.connection.reading
        self.at_the_end()
        self.connection.finish()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def method(*request: Table) -> Any:
            self.called.append((name, request[0] if request else None))
            return self.serve(*request)

        return method


class Line:
    """A connection and its client."""

    def __init__(self, interface: type[Interface], limits: Limits) -> None:
        near, far = channel_pair()
        self.client = Channel(near.detach())
        self.server = StubServer(interface)
        self.reactor = HandReactor()
        self.in_flight = InFlight(1000, AT_ONCE, self.reactor.in_turn)
        self.log = RecordingLog()
        self.channel = Channel(far.detach())
        self.connection = Connection(
            self.channel,
            self.server,
            new_users().open_account(Peer(os.getpid(), STRANGER, STRANGER)),
            number=1,
            since=0,
            tracer=Tracer(),
            reactor=self.reactor,
            in_flight=self.in_flight,
            limits=limits,
            log=self.log,
        )
        self.server.connection = self.connection

    def send(self, method: Method, body: bytes = b"", txid: int = 0, *handles: Handle) -> None:
        self.send_raw(header(txid, method.ordinal) + body, *handles)

    def send_raw(self, data: bytes, *handles: Handle) -> None:
        assert self.client.send(data, handles) == len(data)
        for handle in handles:
            handle.close()

    def serve(self) -> None:
        """Process all messages that have arrived."""
        self.reactor.receive_all()

    def defer(self) -> Deferred:
        """Make a call with txid 6 that the server answers later."""
        call = Deferred()
        self.server.serve = lambda: call
        self.send(BufferCollection.wait_for_all_buffers_allocated, txid=6)
        self.serve()
        return call

    def receive(self) -> Message | None:
        received = self.client.receive()
        return None if received is None else parse(*received)

    def answers(self) -> list[int]:
        """Return the txids of all responses that have arrived. The end of the channel is not a response."""
        found = []
        with contextlib.suppress(PeerClosedError):
            while (message := self.receive()) is not None:
                found.append(message.txid)
                message.close()
        return found

    def fill(self) -> None:
        """Fill the client's queue with responses that no call asked for."""
        while self.channel.send(header(0x7FFF_FFFF, 1)):
            pass

    def drain(self) -> None:
        """Read the responses that `fill` sent."""
        while self.client.receive() is not None:
            pass

    @property
    def reason(self) -> str:
        """Return the reason with which the server was ended, exactly once."""
        [reason] = self.server.reasons
        assert self.connection.closed
        assert self.connection.server is NOBODY  # so that both are freed at once
        return reason

    def former_owner(self) -> socket.socket:
        """The server end, in the hands of a client that kept a duplicate."""
        return socket.socket(fileno=os.dup(self.channel.fileno()))

    def drain_until_closed(self) -> None:
        """Read the responses that `fill` sent, until the end of the channel. No other message may follow."""
        with contextlib.suppress(PeerClosedError):
            while True:
                message = self.receive()
                assert message is not None, "the channel is open"
                assert message.txid == 0x7FFF_FFFF

    def close(self) -> None:
        self.connection.close()
        self.in_flight.close()
        self.client.close()
        assert not self.server.told_while_reading


def null() -> Handle:
    return Handle(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
