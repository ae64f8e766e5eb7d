"""The sending side of a served channel: responses, events and reasons, in order."""

from __future__ import annotations

import contextlib
import errno
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import lru_cache, partial
from time import perf_counter_ns
from typing import Any, NamedTuple, Protocol

from sysmem_protocol import codec
from sysmem_protocol.channel import Channel, PeerClosedError
from sysmem_protocol.explained import Explained, ExplainedOnExplainedEvent
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Event, Method, Table
from sysmem_protocol.message import Message
from sysmem_protocol.sysmem2 import Error

from ..config import Limits
from ..in_flight import Flight, InFlight
from ..pause import give_way
from ..ports import Log
from ..quota import Exceeded
from ..users import Account
from .errors import Failed
from .latencies import SUM, Latencies
from .outbox import Outbox, OutboxFull, nothing


class Encoded(NamedTuple):
    """A response that is already encoded."""

    body: bytes
    #: Its handles, which the receiver of this object owns.
    handles: list[Handle]
    #: Returns the response as a table, for watchers.
    table: Callable[[], Table]


class Maker(Protocol):
    """Creates a response when it can be sent."""

    def make(self) -> Encoded | Table | Error | None:
        """Return the response. Called again for each new attempt to send it."""

    def instead(self, error: OSError) -> Error:
        """Return the error to send if the descriptors cannot be sent."""

    def done(self) -> None:
        """Clean up after the response was sent, or if it never will be. Called once."""


class Traffic(Protocol):
    """Counts messages, and may be watched."""

    #: Whether there is a watcher.
    active: bool
    #: The time that messages took until they were processed, and calls until they were answered.
    latencies: Latencies


class Described(Protocol):
    """The part of a connection's server that responses need."""

    def about(self) -> dict[str, Any]:
        """Return fields for log entries: the channel, and its client's name."""


class Answering(ABC):
    """The sending side of a connection; the base class of :class:`.Connection`, which receives and ends."""

    def __init__(
        self,
        channel: Channel,
        server: Described,
        account: Account,
        *,
        in_flight: InFlight,
        limits: Limits,
        log: Log,
        tracer: Traffic,
    ) -> None:
        self.account = account
        self._channel = channel
        self._server = server
        self._in_flight = in_flight
        self._log = log
        self._tracer = tracer
        self._outbox = Outbox(
            channel,
            limits.max_outbox_messages,
            limits.max_outbox_bytes,
            partial(account.queue, self),
            self._open_flight,
        )
        #: The time of arrival of each unanswered call, by txid (see :mod:`.latencies`).
        self._calls: dict[int, int] = {}
        self._latencies = tracer.latencies
        self._stopped_receiving = False
        #: Whether the last :meth:`flush` left something unsent until the client reads.
        self._waits_for_room = False
        #: Whether a :meth:`flush` is under way; it may be interrupted for other work.
        self._is_flushing = False
        self._sending_ends = False
        self._said_held = False
        #: Whether the client requested reasons.
        self.explained = False
        #: The number of messages that were sent or are queued.
        self.sent = 0
        self.reading = True
        self.closed = False

    def _open_flight(self) -> Flight:
        fd = self._channel.fileno()
        return self._in_flight.open(self.account, fd, self._flush_later)

    @property
    @abstractmethod
    def gone(self) -> bool:
        """Whether this has ended, or its client has left and the end was not read yet."""

    @abstractmethod
    def _flush_later(self) -> None:
        """Request a call of :meth:`flush`. No effect if this is closed."""

    @abstractmethod
    def _trace(self, method: Method, txid: int, answer: Table | Error | None) -> None:
        """Report a message that is about to be sent to watchers."""

    @property
    def unanswered(self) -> int:
        """Return the number of unanswered calls."""
        return len(self._calls)

    @property
    def queued(self) -> int:
        """Return the number of messages queued until the client reads."""
        return len(self._outbox)

    @property
    def waiting_bytes(self) -> int:
        """The number of bytes queued. See :class:`.Queue`."""
        return self._outbox.waiting_bytes

    @property
    def waiting_descriptors(self) -> int:
        """The number of descriptors queued. See :class:`.Queue`."""
        return self._outbox.waiting_descriptors

    # --- errors -------------------------------------------------------------------------------------------------------

    @abstractmethod
    def refuse(self, reason: str) -> None:
        """End the channel because its client broke a rule. No more responses are sent."""

    @abstractmethod
    def fail(self, reason: str) -> None:
        """End the channel because the daemon cannot serve it. No more responses are sent."""

    @abstractmethod
    def overflow(self, error: Exceeded) -> None:
        """See :class:`.Queue`."""

    @abstractmethod
    def close(self, far: Handle | None = None) -> None:
        """Close immediately, and close the client end too if it is given. Queued responses are dropped. Idempotent."""

    @abstractmethod
    def _cannot(self, event: str, error: Exception) -> None:
        """Log an error of the daemon, and end the channel."""

    # --- responses and events -----------------------------------------------------------------------------------------

    def log_failure(self, method: Method, failure: Failed) -> None:
        """Log that the response to a call is an error, with the reason."""
        self._log.info(
            "a call was answered with an error",
            method=str(method),
            error=failure.error.name,
            reason=str(failure),
            **self._server.about(),
        )
        self.explain(failure.error, str(failure))

    def explain(self, error: Error | None, line: str, report: Handle | None = None) -> None:
        """Send the reason for the next response's error, or (None) for the channel's end, if the client asked for it.

        Takes ownership of `report`. A reason that cannot be sent because the client does not read is dropped. Raises
        nothing.
        """
        if not self.explained:
            if report is not None:
                report.close()
            return
        with contextlib.suppress(OSError, OutboxFull):
            # A channel that closes must not stay for a client that doesn't read.
            wait = error is not None
            if report is not None or self._tracer.active:
                content = ExplainedOnExplainedEvent(error=error, line=line, report=report)
                self.send_event(Explained.on_explained, content, wait=wait)
            else:
                self._send_event(explanation(error, line), wait=wait)

    def explain_next(self, error: Error, line: str) -> None:
        """Send the reason for an error that replaces a response, if that is next and the client asked for reasons."""
        if self.explained:
            with contextlib.suppress(OSError):
                self._outbox.try_put(explanation(error, line))

    def send_event(self, event: Event, content: Table, *, wait: bool = True) -> bool:
        """Send an event, and take ownership of its handles. Return False if it is dropped.

        Without `wait` it is dropped if there is no room, unless other messages are queued too. Raises
        :class:`OutboxFull`, and the errors of :meth:`Channel.send`.
        """
        body, handles = codec.encode(content)
        message = Message(0, event.ordinal, body, handles)
        return self._send_event(message, wait=wait, tell=self._telling(event, 0, content))

    def _telling(
        self, method: Method, txid: int, content: Table | Error | None
    ) -> Callable[[], None]:
        """Return what reports a message to watchers, for the outbox to call in the order of sending."""
        return partial(self._trace, method, txid, content) if self._tracer.active else nothing

    def _send_event(
        self, message: Message, *, wait: bool, tell: Callable[[], None] = nothing
    ) -> bool:
        if self.closed or self._sending_ends:
            message.close()
            return False
        if wait or self._outbox:
            self._outbox.put(message, tell)
        elif not self._outbox.try_put(message, tell):
            return False
        self.sent += 1
        if self._outbox:
            self._flush_later()
        return True

    def stream(self, event: Event, make: Callable[[], Table], done: Callable[[], None]) -> None:
        """Send an event when there is room. `make` creates it for each attempt.

        `done` is called once, after it was sent or if it never will be.
        """

        def message() -> Message:
            body, handles = codec.encode(make())
            return Message(0, event.ordinal, body, handles)

        if self.closed:
            done()
            return
        self.sent += 1
        self._outbox.put_later(message, lambda _: message(), done)
        self._flush_later()

    def _answered(self, method: Method, txid: int) -> None:
        self.sent += 1
        began = self._calls.pop(txid, None)
        if began is not None:
            self._latencies.took(method, began)

    def answer(self, method: Method, txid: int, answer: Table | Error | None) -> None:
        """Send the response to a call, and take ownership of its handles.

        Raises :class:`OutboxFull`, and the errors of :meth:`Channel.send`.
        """
        self._answered(method, txid)
        message = _message(method, txid, answer)
        if self.closed:
            message.close()
            return
        try:
            self._outbox.put(message, self._telling(method, txid, answer))
        except OSError as error:
            if error.errno != errno.ETOOMANYREFS or not method.fallible:
                raise
            self._log.error(
                "the descriptors of a response cannot be sent",
                method=str(method),
                reason=str(error),
                **self._server.about(),
            )
            self.explain(
                Error.UNSPECIFIED, f"the descriptors of a response cannot be sent: {error}"
            )
            self._outbox.put(_message(method, txid, Error.UNSPECIFIED))
        if self._outbox:
            self._flush_later()

    def _answer_bare(self, method: Method, txid: int, header: bytes) -> None:
        """Send an empty response to a call, with the header of the request."""
        try:
            is_sent = not self._tracer.active and not self.closed and self._outbox.put_bytes(header)
        except PeerClosedError:
            self._answered(method, txid)  # as in `answer`: the txid is free again
            raise
        if not is_sent:
            self.answer(method, txid, None)
            return
        self.sent += 1
        # The same as `Latencies.took`, without a call, because this path must be fast.
        took = perf_counter_ns() - self._calls.pop(txid)
        latency = self._latencies[method]
        latency[took.bit_length()] += 1
        latency[SUM] += took

    def try_answer(self, method: Method, txid: int, answer: Table | Error | None) -> bool:
        """Send as :meth:`answer` does, but end this channel on errors. See :meth:`Deferred.answer`."""
        try:
            self.answer(method, txid, answer)
        except PeerClosedError:
            return False  # receiving detects this too, after the client's last messages
        except OutboxFull as error:
            self.refuse(str(error))
        except Exception as error:
            self._cannot("a response cannot be sent", error)
        return self.reading

    def answer_later(self, method: Method, txid: int, maker: Maker) -> None:
        """Send the response to a call in the next :meth:`flush`; see :meth:`Deferred.answer_with`."""
        self._answered(method, txid)
        if self.closed:
            maker.done()
            return
        traced = False

        def make() -> Message:
            nonlocal traced
            answer = maker.make()
            if self._tracer.active and not traced:
                told = answer.table() if isinstance(answer, Encoded) else answer
                self._trace(method, txid, told)
                traced = True  # the response may be created again
            if isinstance(answer, Encoded):
                message = Message(txid, method.ordinal, answer.body, answer.handles)
            else:
                message = _message(method, txid, answer)
            try:
                give_way()  # creating descriptors for a hundred buffers is much work
            except BaseException:
                message.close()
                raise
            return message

        self._outbox.put_later(
            make,
            lambda error: _message(method, txid, maker.instead(error)),
            maker.done,
        )
        self._flush_later()

    def flush(self) -> bool:
        """Send queued messages. Return True if nothing is left to do until the next request. Raises nothing."""
        if self.closed or self._is_flushing:
            return True
        self._is_flushing = True
        try:
            done = self._outbox.flush()
        except PeerClosedError:
            self._outbox.close()  # receiving detects this too, after the client's last messages
            done = True
        except OutboxFull as error:
            self.refuse(str(error))
            done = True
        except Exception as error:
            self._cannot("a response cannot be sent", error)
            done = True
        finally:
            self._is_flushing = False
        self._waits_for_room = not done
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
        """Keep an ended channel until its client has read what is queued. Drop further messages from the client."""
        if not self._stopped_receiving:
            self._stopped_receiving = True
            try:
                self._channel.stop_receiving()
            except OSError:
                self.close()  # no descriptors are left for waiting


def explanation(error: Error | None, line: str) -> Message:
    """Return the event with a reason and no report."""
    return Message(0, Explained.on_explained.ordinal, _explanation_body(error, line))


@lru_cache(maxsize=1)  # all participants of a tree that fails are told the same
def _explanation_body(error: Error | None, line: str) -> bytes:
    body, _ = codec.encode(ExplainedOnExplainedEvent(error=error, line=line))
    return body


def _message(method: Method, txid: int, answer: Table | Error | None) -> Message:
    body, handles = codec.encode_response(method, answer)
    return Message(txid, method.ordinal, body, handles)
