"""One served channel: it receives datagrams, calls its server, and ends.

This module implements the rules of `docs/spec/protocol.md`, "What bad input gets". A connection does not know
collections; its :class:`.Server` does. It does not know trio either: a :class:`.Reactor` waits until the channel is
readable or writable and then calls :meth:`Connection.receive` or :meth:`.Connection.flush`, which never wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from time import perf_counter_ns
from typing import Any, Protocol, TypeAlias, TypeVar

from sysmem_protocol import codec
from sysmem_protocol.channel import Channel, PeerClosedError
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Method, Table
from sysmem_protocol.message import SERVER_TXID, MalformedMessage, Message, parse
from sysmem_protocol.sysmem2 import Allocator, Error, Node

from ..config import Limits
from ..ends import every
from ..in_flight import InFlight
from ..pause import Holder, give_way, wait_for, wait_while
from ..ports import Log, Peer
from ..quota import Exceeded
from ..tree import Misuse
from ..users import Account, User
from .answering import Answering
from .deferred import Deferred
from .errors import Failed, Refused
from .latencies import Latencies
from .outbox import OutboxFull
from .requests import TXID_BYTES, bare_methods, flaw, handle_members
from .server import NOBODY, Server

T = TypeVar("T")

#: The beginning of a message that has no response: a txid of 0.
_ONE_WAY = bytes(TXID_BYTES)

_HeldBy: TypeAlias = Callable[[], Holder | None]

_decoder = codec.Decoder(pause=give_way, shared=True)


class Reactor(Protocol):
    """Waits for channels, and calls their connections in turn."""

    def connections(self) -> Iterable[Connection]:
        """Return all served connections that are not closed."""

    def serve(self, connection: Connection) -> None:
        """Call `receive` whenever the channel is readable, until the connection is closed or no longer reading."""

    def hold(self, connection: Connection, holder: Holder) -> None:
        """Do not call `receive` until `holder` is idle."""

    def flush(self, connection: Connection) -> None:
        """Call `flush` later, and again whenever the channel is writable, until it returns True.

        No effect if the connection is closed.
        """

    def closing(self, connection: Connection) -> None:
        """Remove the connection, which is about to close its channel."""

    def in_turn(self, user: User, work: Callable[[], None], *, apart: bool = False) -> None:
        """Call `work`, which may take long, in a turn of `user`.

        With `apart`, the work is not part of processing a message, so other messages of the user may interrupt it.
        """


class Tracer:
    """Receives reports of messages on channels while there is a watcher. This base class ignores them."""

    #: Whether there is a watcher. The methods are called only in that case.
    active = False

    def __init__(self) -> None:
        #: The numbers of messages on closed channels: those received, and those sent or queued.
        self.messages_in = self.messages_out = 0
        #: The time that messages took until they were processed, and calls until they were answered.
        self.latencies = Latencies()

    def received(
        self, connection: Connection, method: Method, txid: int, request: Table | None
    ) -> None:
        """Report a message that has arrived and is about to be processed. The caller keeps ownership of its handles."""

    def processed(self, connection: Connection) -> None:
        """Report that this message was processed."""

    def sent(
        self, connection: Connection, method: Method, txid: int, answer: Table | Error | None
    ) -> None:
        """Report a response, or an event with txid 0, that is about to be sent. The caller keeps its handles."""

    def refused(self, connection: Connection, reason: str) -> None:
        """Report that a connection ends because its client broke a rule, or the daemon cannot serve it."""

    def opened(self, connection: Connection) -> None:
        """Report that a channel is served."""

    def served(self, connection: Connection, by: int) -> None:
        """Report that a node is served on this channel, because of a message on the connection with the number `by`."""

    def left(self, connection: Connection, server: Server) -> None:
        """Report that the node of this channel has failed, or its client has released it and closed."""

    def closed(self, connection: Connection) -> None:
        """Report that a channel is closed."""


class Connection(Answering):
    """The server end of one channel."""

    _server: Server
    _tracer: Tracer
    #: Called when the served object exists; see :meth:`when_served`. It is rarely set, so it is not set in `__init__`:
    #: CPython lets objects of a class share the names of at most 30 attributes, and more would cost 1.3 KiB a channel.
    on_served: Callable[[], None] | None = None

    def __init__(
        self,
        channel: Channel,
        server: Server,
        account: Account,
        *,
        number: int,
        since: int,
        reactor: Reactor,
        in_flight: InFlight,
        limits: Limits,
        log: Log,
        tracer: Tracer,
    ) -> None:
        """Take ownership of `channel` and begin to serve it, charged to `account`."""
        self._charge = account.take_connection()
        super().__init__(
            channel,
            server,
            account,
            in_flight=in_flight,
            limits=limits,
            log=log,
            tracer=tracer,
        )
        self._reactor = reactor
        self._max_calls = limits.max_unanswered_calls
        self._bare = bare_methods(server.interface)
        #: The number of this channel, unique among all that the daemon has served.
        self.number = number
        #: When the daemon began to serve it, by its clock.
        self.since = since
        #: The number of received messages.
        self.received = 0
        #: The number of current or waiting processors of messages, whether one is processing, and callbacks for the
        #: end.
        self._claims = 0
        self._processing = False
        self._when_idle: tuple[Callable[[], None], ...] = ()
        if tracer.active:
            tracer.opened(self)
        reactor.serve(self)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._channel.fileno()

    @property
    def server(self) -> Server:
        """The server of this channel."""
        return self._server

    def when_served(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the served object exists, or when this is closed: now or later.

        A node is created after its server, perhaps in a later slice.
        """
        if self.closed or getattr(self._server, "node_or_none", self._server) is not None:
            callback()
        else:
            self.on_served = callback

    def _flush_later(self) -> None:
        self._reactor.flush(self)

    def _trace(self, method: Method, txid: int, answer: Table | Error | None) -> None:
        self._tracer.sent(self, method, txid, answer)

    def peer(self) -> Peer:
        """Return the process that created the channel, as the kernel reports it. Raises `OSError`."""
        return Peer(*self._channel.peer_credentials())

    # --- receiving ---

    def note_hang_up(self) -> None:
        """Record that the kernel has reported the close of the client's end. What it has sent can still be received."""
        self._channel.has_hung_up = True

    def receive(self) -> bool:
        """Process one message if one has arrived. Raises nothing: an error ends only this channel.

        While the channel is held, messages stay in its queue.

        Returns:
            True if the next message has probably arrived too. A client that made a call usually waits for the response
            before it sends anything more. A wrong guess is harmless, because the kernel reports what has arrived.
        """
        if not self.reading:
            return False
        held_by = self._server.held_by
        holder = self if self._claims else held_by()
        if holder is not None:
            self._reactor.hold(self, holder)
            return False
        self._claims = 1
        self._processing = True
        try:
            datagram = self._next()
            if datagram is None:
                return False
            self._process(*datagram, held_by)
        finally:
            self._processed()
        # After a message to an Allocator, the client usually continues on the new channel.
        return datagram[0].startswith(_ONE_WAY) and issubclass(self._server.interface, Node)

    def receive_until(self, nonce: bytes | None) -> bool:
        """Process everything up to the datagram `nonce`, which was just sent to the other end.

        Without a nonce, process one message. The messages are processed although an allocation attempt holds the
        channel; see :meth:`.Service.find_token`. Returns False if the nonce does not arrive, or if the channel closes
        first.
        """
        held_by = self._server.changed_by
        self._claims += 1  # so that the nonce is not received as a message
        while self._processing:
            wait_for(self)
        self._processing = True
        try:
            while self._may_read(held_by):
                datagram = self._next()
                if datagram is None:
                    return False
                data, handles = datagram
                if data == nonce:
                    for handle in handles:
                        handle.close()
                    return True
                self._process(data, handles, held_by)
                if nonce is None:
                    return True
            return False
        finally:
            self._processed()

    def _may_read(self, held_by: _HeldBy) -> bool:
        """Wait while the channel is held. Return whether it is still read afterwards."""
        wait_while(held_by)
        return self.reading

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when this channel's messages may be received; see :class:`.Holder`.

        That is when nobody processes one, or waits to do so.
        """
        if self._claims:
            self._when_idle = (*self._when_idle, callback)
        else:
            callback()

    def _processed(self) -> None:
        self._processing = False
        self._claims -= 1
        if self.closed and not self._claims:
            self._server = NOBODY  # so that both are freed at once
        if self._when_idle:
            callbacks, self._when_idle = self._when_idle, ()
            for callback in callbacks:
                callback()

    def _next(self) -> tuple[bytes, list[Handle]] | None:
        try:
            return self._channel.receive()
        except PeerClosedError:
            self.reading = False
            self._end(self._server.peer_closed)
        except MalformedMessage as error:
            self.refuse(str(error))
        except OSError as error:
            self.fail(f"receiving failed: {error}")
        return None

    def _process(self, data: bytes, handles: list[Handle], held_by: _HeldBy) -> None:
        self.received += 1
        try:
            bare = self._bare.get(data[TXID_BYTES:])
            if bare is not None and not handles:
                self._dispatch_bare(bare, data)
            else:
                self._dispatch(data, handles, held_by)
        except (Refused, Misuse, OutboxFull, MalformedMessage) as error:
            self.refuse(str(error))
        except PeerClosedError:
            pass  # the client closed without waiting for the response; its earlier messages still count
        except Exceeded as error:
            self.account.say(error, self._server.about())
            self._server.exceeded(error)
        except Exception as error:
            self._cannot("an error occurred while a message was processed", error)

    def _dispatch_bare(self, method: Method, data: bytes) -> None:
        """Serve a message that consists exactly of its method's header."""
        server = self._server
        server.expect_message()
        txid = int.from_bytes(data[:TXID_BYTES], "little")
        began = self._check_txid(method, txid)
        if self._tracer.active:
            self._tracer.received(self, method, txid, None)
        try:
            answer = getattr(server, method.name)()
        except Failed as failure:
            self.log_failure(method, failure)
            answer = failure.error
        if self._tracer.active:
            self._tracer.processed(self)
        if not method.two_way:
            self._latencies.took(method, began)
            return
        if answer is None and not method.fallible:
            self._answer_bare(method, txid, data)
        elif isinstance(answer, Deferred):
            answer.bind(self, method, txid)
        else:
            self.answer(method, txid, answer)

    def _dispatch(self, data: bytes, handles: list[Handle], held_by: _HeldBy) -> None:
        message = parse(data, handles)
        try:
            self._dispatch_message(message, held_by)
        finally:
            message.close()

    def _dispatch_message(self, message: Message, held_by: _HeldBy) -> None:
        self._server.expect_message()
        method = self._server.interface.methods.get(message.ordinal)
        if method is None:
            name = self._server.interface.__name__
            raise Refused(f"{name} has no method with ordinal {message.ordinal:#018x}")
        try:
            if message.more:
                raise Refused(f"{method}: only answers may be split")
            began = self._check_txid(method, message.txid)
            request = _decoder.request(method, message.body, message.handles)
        except codec.DecodeError as error:
            raise Refused(f"{method}: {error}") from None
        try:
            # Other work may have been done while the message was decoded.
            if request is not None and not self._may_read(held_by):
                return
            if self._tracer.active:
                self._tracer.received(self, method, message.txid, request)
            answer = self._call(method, request)
        finally:
            if request is not None:
                for member in handle_members(method):
                    handle = getattr(request, member.name)
                    if handle is not None:
                        handle.close()
        if self._tracer.active:
            self._tracer.processed(self)
        if not method.two_way:
            self._latencies.took(method, began)
            return
        if isinstance(answer, Deferred):
            answer.bind(self, method, message.txid)
        else:
            self.answer(method, message.txid, answer)

    def _check_txid(self, method: Method, txid: int) -> int:
        """Register a call, and return the time at which its processing began."""
        if not method.two_way:
            if txid:
                raise Refused(f"{method} is one-way, but has the txid {txid:#x}")
            return perf_counter_ns()
        if not txid or txid & SERVER_TXID:
            raise Refused(f"{method} needs a txid from 1 to {SERVER_TXID - 1:#x}, not {txid:#x}")
        if txid in self._calls:
            raise Refused(f"{method}: the call with txid {txid:#x} hasn't been answered yet")
        if len(self._calls) >= self._max_calls:
            raise Refused(f"more than {self._max_calls} calls wait for their answer")
        self._calls[txid] = began = perf_counter_ns()
        return began

    def _call(self, method: Method, request: Table | None) -> Any:
        found = None if request is None else flaw(method, request)
        try:
            if found is not None:
                if method is Allocator.get_vmo_info:
                    raise Failed(Error.PROTOCOL_DEVIATION, found)
                raise Refused(f"{method}: {found}")
            serve = getattr(self._server, method.name)
            return serve() if request is None else serve(request)
        except Failed as failure:
            self.log_failure(method, failure)
            return failure.error

    # --- end ---

    @property
    def gone(self) -> bool:
        """Whether this has ended, or its client has left and the end was not read yet."""
        return not self.reading or self._channel.hung_up()

    def shutdown_sending(self) -> None:
        """Let the client see this end closed after the queued messages, while its own messages are still received."""
        self._sending_ends = True
        if not self._outbox:
            self._channel.shutdown_sending()

    def finish(self, far: Handle | None = None) -> None:
        """Stop processing messages, and close when the queued messages have been sent to the client.

        `far` is the client end, to be closed too if nothing is queued.
        """
        self.reading = False
        if not self._outbox:
            self.close(far)
        elif self._waits_for_room:
            self._be_patient()
        # Otherwise a later `flush` closes it, or waits for the client.

    def close(self, far: Handle | None = None) -> None:
        """Close immediately, and close the client end too if it is given. Queued responses are dropped. Idempotent."""
        self.reading = False
        if self.closed:
            return
        self.closed = True
        self._tracer.messages_in += self.received
        self._tracer.messages_out += self.sent
        if self._tracer.active:
            self._tracer.closed(self)
        try:
            every(
                (
                    self._outbox.end,
                    partial(self._reactor.closing, self),
                    partial(self._channel.close, far),
                )
            )
        finally:
            if self.on_served is not None:
                self.on_served()
            if self._charge is not None:
                self._charge.close()
            if not self._claims:
                self._server = NOBODY

    def overflow(self, error: Exceeded) -> None:
        """See :class:`.Queue`."""
        self.account.say(error, self._server.about())
        self.exceeded(error)
        self.close()

    def refuse(self, reason: str) -> None:
        """End the channel because its client broke a rule. No more responses are sent."""
        self._refuse(self._server.refuse, reason)

    def fail(self, reason: str) -> None:
        """End the channel because the daemon cannot serve it. No more responses are sent."""
        self._refuse(self._server.failed, reason)

    def exceeded(self, error: Exceeded) -> None:
        """End the channel because its user is over its quota. No more responses are sent."""
        self._refuse(self._server.exceeded, error)

    def _refuse(self, tell: Callable[[T], None], why: T) -> None:
        self._outbox.close()
        if self.reading:
            self.reading = False
            if self._tracer.active:
                self._tracer.refused(self, str(why))
            self._end(tell, why)

    def _cannot(self, event: str, error: Exception) -> None:
        """Log an error of the daemon, and end the channel."""
        unforeseen = not isinstance(error, OSError)
        self._log.error(event, reason=repr(error), exc_info=unforeseen, **self._server.about())
        self.fail(repr(error))

    def _end(self, tell: Callable[..., None], *reason: object) -> None:
        """Notify the server of the end, which may fail a tree. If that raises an error, only this channel closes."""
        try:
            tell(*reason)
        except Exception as error:
            self._log.error(
                "an error occurred while a channel was closed", reason=repr(error), exc_info=True
            )
            self.close()
