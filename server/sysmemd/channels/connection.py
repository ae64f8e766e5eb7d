"""One served channel: datagrams in, calls on its server, answers out.

This module keeps the rules of `docs/spec/protocol.md`, "What bad input gets". A connection does not know collections:
its :class:`Server` does. It does not know trio either: a :class:`Reactor` waits until the channel is readable or
writable and then calls :meth:`Connection.receive` or :meth:`Connection.flush`, which never wait.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import perf_counter_ns
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar

from sysmem_protocol import codec
from sysmem_protocol.channel import Channel, PeerClosedError
from sysmem_protocol.explained import Explained, ExplainedOnExplainedEvent
from sysmem_protocol.handles import Handle, describe, is_kind, is_nameless_end
from sysmem_protocol.library import Event, HandleKind, HandleType, Interface, Member, Method, Table
from sysmem_protocol.message import (
    FLAGS,
    HEADER,
    MAGIC,
    SERVER_TXID,
    MalformedMessage,
    Message,
    parse,
)
from sysmem_protocol.sysmem2 import Allocator, Error

from ..config import Limits
from ..ends import every
from ..in_flight import Flight, InFlight
from ..pause import Holder, give_way, wait_for
from ..ports import Log, Peer
from ..quota import Exceeded
from ..tree import Misuse
from ..users import Account, User
from .latencies import SUM, Latencies
from .outbox import Outbox, OutboxFull

T = TypeVar("T")

_TXID_BYTES = 4
#: How a message that wants no answer begins: with a txid of 0.
_ONE_WAY = bytes(_TXID_BYTES)

_HeldBy: TypeAlias = Callable[[], Holder | None]

_decoder = codec.Decoder(pause=give_way)


class Refused(Exception):
    """A message broke a rule of the protocol: its channel closes, or its node fails. `str()` says which rule."""


class Failed(Exception):
    """A call is answered with an error and the channel goes on. `str()` says why, for the log."""

    def __init__(self, error: Error, reason: str) -> None:
        super().__init__(reason)
        self.error = error


class Server(Protocol):
    """What serves a connection: a method for each of its interface's, named alike, and these.

    A method takes its request table, or nothing, and returns its answer: a table, None, an `Error`, or a
    :class:`Deferred` that is answered later. It owns no handle that it doesn't take. It may raise :class:`Failed`, and
    :class:`Refused` or the tree's :class:`Misuse`, which mean the same.
    """

    interface: ClassVar[type[Interface]]

    def about(self) -> dict[str, Any]:
        """Fields for log lines: which channel this is, and who its client says it is."""

    def held_by(self) -> Holder | None:
        """Return what has to be over before anything more is processed, be it a message or the client's close."""

    def changed_by(self) -> Holder | None:
        """Return what has to be over before anybody may do anything to what this serves."""

    def expect_message(self) -> None:
        """Raise :class:`Refused` when no message at all may come any more."""

    def refuse(self, reason: str) -> None:
        """A rule was broken: end the channel and what depends on it."""

    def failed(self, reason: str) -> None:
        """The daemon can't serve the channel: end it and what depends on it."""

    def exceeded(self, error: Exceeded) -> None:
        """The user has as much as it may have, which is logged already: end what depends on what was asked for."""

    def peer_closed(self) -> None:
        """The client's end is closed and everything that it sent was processed."""


class Reactor(Protocol):
    """Waits for channels, and calls their connections in turn."""

    def connections(self) -> Iterable[Connection]:
        """All connections that it was to serve and that aren't closed."""

    def serve(self, connection: Connection) -> None:
        """Call `receive` whenever the channel is readable, until the connection is closed or no longer reading."""

    def hold(self, connection: Connection, holder: Holder) -> None:
        """Don't call `receive` before `holder` is idle."""

    def flush(self, connection: Connection) -> None:
        """Call `flush`, later, and again whenever the channel is writable, until it returns True.

        Does nothing if the connection is closed.
        """

    def closing(self, connection: Connection) -> None:
        """Forget the connection: it is about to close its channel."""

    def in_turn(self, user: User, work: Callable[[], None]) -> None:
        """Call `work`, which may take long, in a turn of `user`."""


class Tracer:
    """Is told what comes and goes on channels, while somebody watches; this one is told nothing."""

    #: Whether anybody watches. Only then the methods are called.
    active = False

    def __init__(self) -> None:
        #: Messages of channels that are closed: how many came, and were sent or were to be.
        self.messages_in = self.messages_out = 0
        #: How long messages took that were processed, and answered if they are calls.
        self.latencies = Latencies()

    def received(
        self, connection: Connection, method: Method, txid: int, request: Table | None
    ) -> None:
        """A message has come, and is about to be processed. The handles in it stay the caller's."""

    def processed(self, connection: Connection) -> None:
        """That message was processed."""

    def sent(
        self, connection: Connection, method: Method, txid: int, answer: Table | Error | None
    ) -> None:
        """An answer, or an event with the txid 0, is about to be sent. The handles in it stay the caller's."""

    def refused(self, connection: Connection, reason: str) -> None:
        """A connection ends because its client broke a rule, or can't be served."""

    def opened(self, connection: Connection) -> None:
        """A channel is served."""

    def served(self, connection: Connection, by: int) -> None:
        """A node is served on this channel from now on, because of a message on the one with the number `by`."""

    def left(self, connection: Connection) -> None:
        """The node that is served here has failed, or its client has left it in peace."""

    def closed(self, connection: Connection) -> None:
        """A channel is closed."""


class Maker(Protocol):
    """Makes an answer when it can be sent."""

    def make(self) -> Table | Error | None:
        """The answer; asked once or more, for each attempt to send it anew."""

    def instead(self, error: OSError) -> Error:
        """What to answer when the descriptors can't be sent."""

    def done(self) -> None:
        """The answer is sent, or never will be. Called once."""


class Deferred:
    """An answer that is made when it can be sent: once its maker is known, or never, if the connection closes first."""

    __slots__ = ("_connection", "_maker", "_method", "_txid")

    def __init__(self, maker: Maker | None = None) -> None:
        self._maker = maker

    def bind(self, connection: Connection, method: Method, txid: int) -> None:
        """Remember which call this answers, and answer it if that is possible already."""
        self._connection = connection
        self._method = method
        self._txid = txid
        if self._maker is not None:
            self.answer_with(self._maker)

    def answer_with(self, maker: Maker) -> None:
        """Answer, from a later turn of the loop.

        Nothing is sent and nothing fails before this returns, so that the tree may say it in the midst of a change.
        """
        self._connection.answer_later(self._method, self._txid, maker)

    def answer(self, answer: Table | Error | None) -> bool:
        """Answer at once, from the turn of another connection. The handles in `answer` are closed afterwards.

        Return whether the answer was sent, or waits for a client that reads slowly. Otherwise that client is gone or
        can't be answered, and its channel closes. Nothing is raised.
        """
        return self._connection.try_answer(self._method, self._txid, answer)

    def fail(self, failure: Failed) -> None:
        """Answer at once with an error, and log why. Nothing is raised."""
        self._connection.log_failure(self._method, failure)
        self.answer(failure.error)

    @property
    def gone(self) -> bool:
        """Whether the client that waits for this has left."""
        return self._connection.gone


class _Nobody:
    """The server of a connection that is closed."""

    interface: ClassVar[type[Interface]] = Interface

    def about(self) -> dict[str, Any]:
        return {}

    def held_by(self) -> None:
        """Nobody holds what is closed."""

    changed_by = held_by

    def expect_message(self) -> None:
        """No message comes."""

    def refuse(self, reason: str) -> None:
        """What is closed ends no more."""

    def failed(self, reason: str) -> None:
        """What is closed ends no more."""

    def exceeded(self, error: Exceeded) -> None:
        """What is closed ends no more."""

    def peer_closed(self) -> None:
        """What is closed ends no more."""


_NOBODY = _Nobody()


class Connection:
    """The server end of one channel."""

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
        """Become the owner of `channel` and have it served, at the expense of `account`."""
        self._charge = account.take_connection()
        self.account = account
        self._channel = channel
        self._server = server
        self._reactor = reactor
        self._in_flight = in_flight
        self._log = log
        self._tracer = tracer
        self._max_calls = limits.max_unanswered_calls
        self._outbox = Outbox(
            channel,
            limits.max_outbox_messages,
            limits.max_outbox_bytes,
            partial(account.queue, self),
            self._open_flight,
        )
        #: When each call came that waits for its answer, by txid (see :mod:`.latencies`).
        self._calls: dict[int, int] = {}
        self._latencies = tracer.latencies
        self._sending_ends = False
        self._stopped_receiving = False
        self._said_held = False
        #: Whether the client asked to be told reasons.
        self.explained = False
        #: Tells this channel from all others that the daemon has served.
        self.number = number
        #: When it began to be served, by the daemon's clock.
        self.since = since
        #: Messages that came, and that were sent or wait to be.
        self.received = self.sent = 0
        #: Who processes messages of this channel or waits to do so, whether one is at it, and whom to tell of the end.
        self._claims = 0
        self._processing = False
        self._when_idle: tuple[Callable[[], None], ...] = ()
        self.reading = True
        self.closed = False
        if tracer.active:
            tracer.opened(self)
        reactor.serve(self)

    def fileno(self) -> int:
        """The descriptor to wait for."""
        return self._channel.fileno()

    @property
    def server(self) -> Server:
        """What serves this channel."""
        return self._server

    @property
    def unanswered(self) -> int:
        """How many calls wait for their answer."""
        return len(self._calls)

    @property
    def queued(self) -> int:
        """How many messages wait for the client to read."""
        return len(self._outbox)

    def _open_flight(self) -> Flight:
        return self._in_flight.open(self.account, self.fileno(), partial(self._reactor.flush, self))

    def peer(self) -> Peer:
        """Return the process that made the channel, as the kernel says it. Raises `OSError`."""
        return Peer(*self._channel.peer_credentials())

    # --- in ---

    def receive(self) -> bool:
        """Process one message if one has arrived. Nothing is raised: what goes wrong ends this channel and no other.

        While the channel is held, messages stay in it.

        Returns:
            True if the next message has probably arrived too. A client that made a call mostly waits for the answer
            before it sends anything more.
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
        return datagram[0].startswith(_ONE_WAY)

    def receive_until(self, nonce: bytes | None) -> bool:
        """Process everything up to the datagram `nonce`, which somebody sent to the other end just now.

        Without a nonce, process one message. The messages are processed although an attempt to allocate holds the
        channel; see :meth:`.Service.find_token`. Returns False if the nonce doesn't arrive, or the channel closes
        before.
        """
        held_by = self._server.changed_by
        self._claims += 1  # so that nobody takes the nonce for a message
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
                _wait_while(held_by)
            return False
        finally:
            self._processed()

    def _may_read(self, held_by: _HeldBy) -> bool:
        """Wait while the channel is held; return whether it is still read then."""
        _wait_while(held_by)
        return self.reading

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when no message of this channel is being processed; see :class:`.Holder`."""
        if self._processing:
            self._when_idle = (*self._when_idle, callback)
        else:
            callback()

    def _processed(self) -> None:
        self._processing = False
        self._claims -= 1
        if self.closed and not self._claims:
            self._server = _NOBODY  # so that both are freed at once
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
            bare = None
            if len(data) == HEADER.size and not handles:
                bare = bare_methods(self._server.interface).get(data[_TXID_BYTES:])
            if bare is not None:
                self._dispatch_bare(bare, data)
            else:
                self._dispatch(data, handles, held_by)
        except (Refused, Misuse, OutboxFull, MalformedMessage) as error:
            self.refuse(str(error))
        except PeerClosedError:
            pass  # it closed without waiting for the answer; what it sent before still counts
        except Exceeded as error:
            self.account.say(error, self._server.about())
            self._server.exceeded(error)
        except Exception as error:
            self._cannot("a message can't be served", error)

    def _dispatch_bare(self, method: Method, data: bytes) -> None:
        """Serve a message that is what its method's header must be, and nothing more."""
        self._server.expect_message()
        txid = int.from_bytes(data[:_TXID_BYTES], "little")
        began = self._check_txid(method, txid)
        if self._tracer.active:
            self._tracer.received(self, method, txid, None)
        answer = self._call(method, None)
        if self._tracer.active:
            self._tracer.processed(self)
        if not method.two_way:
            self._latencies.took(method, began)
            return
        if isinstance(answer, Deferred):
            answer.bind(self, method, txid)
        elif answer is None and not method.fallible:
            self._answer_bare(method, txid, data)
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
            # Others may have gone on while it was decoded.
            if request is not None and not self._may_read(held_by):
                return
            if self._tracer.active:
                self._tracer.received(self, method, message.txid, request)
            answer = self._call(method, request)
        finally:
            if request is not None:
                for member in _handle_members(method):
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
        """Expect an answer to a call. Returns when its processing began."""
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
        flaw = None if request is None else _flaw(method, request)
        try:
            if flaw is not None:
                if method is Allocator.get_vmo_info:
                    raise Failed(Error.PROTOCOL_DEVIATION, flaw)
                raise Refused(f"{method}: {flaw}")
            serve = getattr(self._server, method.name)
            return serve() if request is None else serve(request)
        except Failed as failure:
            self.log_failure(method, failure)
            return failure.error

    def log_failure(self, method: Method, failure: Failed) -> None:
        """Log that a call is answered with an error, and why."""
        self._log.info(
            "a call was answered with an error",
            method=str(method),
            error=failure.error.name,
            reason=str(failure),
            **self._server.about(),
        )
        self.explain(failure.error, str(failure))

    # --- out ---

    def explain(self, error: Error | None, line: str, report: Handle | None = None) -> None:
        """Tell a client that asked for it why an answer with `error` follows, or (None) why the channel closes.

        Owns `report`. A reason that can't be sent, for the client doesn't read, is dropped. Nothing is raised.
        """
        content = ExplainedOnExplainedEvent(error=error, line=line, report=report)
        if not self.explained:
            _close_handles(content)
            return
        with contextlib.suppress(OSError, OutboxFull):
            # A channel that closes must not stay for a client that doesn't read.
            self.send_event(Explained.on_explained, content, wait=error is not None)

    def explain_next(self, error: Error, line: str) -> None:
        """Tell a client that asked for it why an error is answered instead, when its answer is the next to be sent."""
        if self.explained:
            body, _ = codec.encode(ExplainedOnExplainedEvent(error=error, line=line))
            with contextlib.suppress(OSError):
                self._outbox.try_put(Message(0, Explained.on_explained.ordinal, body))

    def send_event(self, event: Event, content: Table, *, wait: bool = True) -> bool:
        """Send an event; owns its handles. False if it is dropped.

        Without `wait` it is dropped when there is no room, unless others wait too.
        Raises :class:`OutboxFull`, and what :meth:`Channel.send` raises.
        """
        if self._tracer.active:
            self._tracer.sent(self, event, 0, content)
        body, handles = codec.encode(content)
        message = Message(0, event.ordinal, body, handles)
        if self.closed or self._sending_ends:
            message.close()
            return False
        if wait or self._outbox:
            self._outbox.put(message)
        elif not self._outbox.try_put(message):
            return False
        self.sent += 1
        if self._outbox:
            self._reactor.flush(self)
        return True

    def stream(self, event: Event, make: Callable[[], Table], done: Callable[[], None]) -> None:
        """Send an event when there is room; `make` makes it for each attempt.

        `done` is called once, when it is sent or never will be.
        """

        def message() -> Message:
            body, handles = codec.encode(make())
            return Message(0, event.ordinal, body, handles)

        if self.closed:
            done()
            return
        self.sent += 1
        self._outbox.put_later(message, lambda _: message(), done)
        self._reactor.flush(self)

    def _answered(self, method: Method, txid: int) -> None:
        self.sent += 1
        began = self._calls.pop(txid, None)
        if began is not None:
            self._latencies.took(method, began)

    def answer(self, method: Method, txid: int, answer: Table | Error | None) -> None:
        """Send the answer to a call; owns its handles.

        Raises :class:`OutboxFull`, and what :meth:`Channel.send` raises.
        """
        self._answered(method, txid)
        if self._tracer.active:
            self._tracer.sent(self, method, txid, answer)
        message = _message(method, txid, answer)
        if self.closed:
            message.close()
            return
        try:
            self._outbox.put(message)
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS or not method.fallible:
                raise
            self._log.error(
                "descriptors can't be sent",
                method=str(method),
                reason=str(error),
                **self._server.about(),
            )
            self.explain(Error.UNSPECIFIED, f"descriptors can't be sent: {error}")
            self._outbox.put(_message(method, txid, Error.UNSPECIFIED))
        if self._outbox:
            self._reactor.flush(self)

    def _answer_bare(self, method: Method, txid: int, header: bytes) -> None:
        """Answer a call that has nothing to say: with its own header."""
        if self._tracer.active or self.closed or not self._outbox.put_bytes(header):
            self.answer(method, txid, None)
            return
        self.sent += 1
        # As `Latencies.took` does, without a call, because this is the path that must be fast.
        took = perf_counter_ns() - self._calls.pop(txid)
        latency = self._latencies[method]
        latency[took.bit_length()] += 1
        latency[SUM] += took

    def try_answer(self, method: Method, txid: int, answer: Table | Error | None) -> bool:
        """As :meth:`answer`, but what goes wrong ends this channel. See :meth:`Deferred.answer`."""
        try:
            self.answer(method, txid, answer)
        except PeerClosedError:
            return False  # reading finds that out too, after what the client had sent
        except OutboxFull as error:
            self.refuse(str(error))
        except Exception as error:
            self._cannot("an answer can't be sent", error)
        return self.reading

    def answer_later(self, method: Method, txid: int, maker: Maker) -> None:
        """Have the answer to a call sent by the next :meth:`flush`; see :meth:`Deferred.answer_with`."""
        self._answered(method, txid)
        if self.closed:
            maker.done()
            return
        tracer = self._tracer

        def make() -> Message:
            nonlocal tracer
            answer = maker.make()
            if tracer.active:
                tracer.sent(self, method, txid, answer)
                tracer = _UNTRACED  # it may be made again
            return _message(method, txid, answer)

        self._outbox.put_later(
            make,
            lambda error: _message(method, txid, maker.instead(error)),
            maker.done,
        )
        self._reactor.flush(self)

    def flush(self) -> bool:
        """Send what waits; True when there is nothing left to do before this is asked for again. Nothing is raised."""
        if self.closed:
            return True
        try:
            done = self._outbox.flush()
        except PeerClosedError:
            self._outbox.close()  # reading finds that out too, after what the client had sent
            done = True
        except OutboxFull as error:
            self.refuse(str(error))
            done = True
        except Exception as error:
            self._cannot("an answer can't be sent", error)
            done = True
        if not done and not self.reading:
            self._be_patient()
        if not done and self._outbox.is_held:
            if not self._said_held:
                self._said_held = True
                self.account.say_in_flight(self._server.about())
            return True
        self._said_held = False
        if done and not self.reading:
            self.close()
        elif done and self._sending_ends:
            self._channel.shutdown_sending()
        return done

    def _be_patient(self) -> None:
        """Keep a channel that has ended until its client has read what waits, but not what the client still sends."""
        if not self._stopped_receiving:
            self._stopped_receiving = True
            try:
                self._channel.stop_receiving()
            except OSError:
                self.close()  # too few descriptors

    @property
    def waiting_bytes(self) -> int:
        """How much waits to be sent. See :class:`.Queue`."""
        return self._outbox.waiting_bytes

    @property
    def waiting_descriptors(self) -> int:
        """How many descriptors wait to be sent. See :class:`.Queue`."""
        return self._outbox.waiting_descriptors

    def overflow(self, error: Exceeded) -> None:
        """See :class:`.Queue`."""
        self.account.say(error, self._server.about())
        self.exceeded(error)
        self.close()

    # --- the end ---

    @property
    def gone(self) -> bool:
        """Whether this has ended, or its client has left and only that wasn't read yet."""
        return not self.reading or self._channel.hung_up()

    def shutdown_sending(self) -> None:
        """Let the client see this end closed after what waits for it, while it can still be heard."""
        self._sending_ends = True
        if not self._outbox:
            self._channel.shutdown_sending()

    def finish(self, far: Handle | None = None) -> None:
        """Process nothing more, and close once the client has been sent what waits for it.

        `far` is the client end, to be closed too if nothing waits.
        """
        self.reading = False
        if not self._outbox:
            self.close(far)
        # Otherwise `flush`, which is to come, closes it or is patient.

    def close(self, far: Handle | None = None) -> None:
        """Close at once, and the client end too if that is given; answers that wait are dropped. Idempotent."""
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
            if self._charge is not None:
                self._charge.close()
            if not self._claims:
                self._server = _NOBODY

    def refuse(self, reason: str) -> None:
        """End the channel because its client broke a rule. It gets no more answers."""
        self._refuse(self._server.refuse, reason)

    def fail(self, reason: str) -> None:
        """End the channel because the daemon can't serve it. Its client gets no more answers."""
        self._refuse(self._server.failed, reason)

    def exceeded(self, error: Exceeded) -> None:
        """End the channel because its user has as much as it may have. It gets no more answers."""
        self._refuse(self._server.exceeded, error)

    def _refuse(self, tell: Callable[[T], None], why: T) -> None:
        self._outbox.close()
        if self.reading:
            self.reading = False
            if self._tracer.active:
                self._tracer.refused(self, str(why))
            self._end(tell, why)

    def _cannot(self, event: str, error: Exception) -> None:
        """Say that the daemon failed its client, and end the channel."""
        unforeseen = not isinstance(error, OSError)
        self._log.error(event, reason=repr(error), exc_info=unforeseen, **self._server.about())
        self.fail(repr(error))

    def _end(self, tell: Callable[..., None], *reason: object) -> None:
        """Tell the server of the end. A tree may fail with that; should it do so wrongly, this channel closes alone."""
        try:
            tell(*reason)
        except Exception as error:
            self._log.error("a channel ended badly", reason=repr(error), exc_info=True)
            self.close()


_UNTRACED = Tracer()

# --- helpers ------------------------------------------------------------------------------------------------------


def _close_handles(table: Table) -> None:
    for _, value in table.set_fields():
        if isinstance(value, Handle):
            value.close()


def bare_methods(interface: type[Interface]) -> Mapping[bytes, Method]:
    """Return the methods whose requests are a header only, by what follows the txid in that."""
    found = _bare_methods.get(interface)
    if found is None:
        found = _bare_methods[interface] = {
            HEADER.pack(0, FLAGS, MAGIC, method.ordinal)[_TXID_BYTES:]: method
            for method in interface.methods.values()
            if method.request is None
        }
    return found


_bare_methods: dict[type[Interface], Mapping[bytes, Method]] = {}


def _wait_while(held_by: _HeldBy) -> None:
    while (holder := held_by()) is not None:
        wait_for(holder)


def _message(method: Method, txid: int, answer: Table | Error | None) -> Message:
    body, handles = codec.encode_response(method, answer)
    return Message(txid, method.ordinal, body, handles)


_members_with_handles: dict[Method, tuple[Member, ...]] = {}


def _handle_members(method: Method) -> tuple[Member, ...]:
    found = _members_with_handles.get(method)
    if found is None:
        members = method.request.members if method.request else ()
        found = tuple(m for m in members if isinstance(m.field.type, HandleType))
        _members_with_handles[method] = found
    return found


def _flaw(method: Method, request: Table) -> str | None:
    """What is wrong with a request that decoded: a required field that is un-set, a handle of the wrong kind."""
    for name in request.missing():
        return f"$.{name} is required"
    for member in _handle_members(method):
        handle = getattr(request, member.name)
        kind = member.field.type
        assert isinstance(kind, HandleType)
        if handle is not None and not _may_be(handle, kind.kind):
            return flaw_of(member.name, handle, kind.kind)
    return None


def _may_be(handle: Handle, kind: HandleKind) -> bool:
    """Whether a handle can be what a field asks for, as far as its method doesn't find out itself."""
    match kind:
        case HandleKind.CLIENT_END:
            return True  # its method looks for the token first, see `Service.find_token`
        case HandleKind.SERVER_END:
            return is_nameless_end(handle, socket.SOCK_SEQPACKET)  # it is given a name next
        case _:
            return is_kind(handle.fileno(), kind)


def flaw_of(field: str, handle: Handle, kind: HandleKind) -> str:
    """Return what is wrong with a handle that isn't of its field's kind."""
    return f"$.{field} must be {_WANTED[kind]}, not {describe(handle.fileno())}"


_WANTED = {
    HandleKind.CLIENT_END: "a SOCK_SEQPACKET Unix socket",
    HandleKind.SERVER_END: "one end of a connected, nameless SOCK_SEQPACKET pair",
    HandleKind.EVENTPAIR: "one end of a connected, nameless SOCK_STREAM or SOCK_SEQPACKET pair",
    HandleKind.VMO: "a memfd or regular file",
    HandleKind.EVENT: "an event",
}
