"""The outstanding calls of one client end, without I/O.

A call gets a txid when it begins, and its response is matched by that. A caller that stops waiting abandons the call:
its response may still arrive, and is then closed with all descriptors in it. Both faces of the client use this module
and add the waiting.

The one call that may take arbitrarily long is put off instead of abandoned: the next caller of the same method takes it
up again. So a program may call it with a timeout as often as it likes, although the daemon closes a channel with more
than 1,024 unanswered calls.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
from dataclasses import dataclass
from typing import Final, NamedTuple

from sysmem_protocol.channel import Channel, DescriptorsLost, PeerClosedError
from sysmem_protocol.codec import DecodeError, Decoder, encode
from sysmem_protocol.explained import Explained, ExplainedOnExplainedEvent
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Method, Table
from sysmem_protocol.message import (
    FLAGS,
    FLAGS_MORE,
    HEADER,
    MAGIC,
    MalformedMessage,
    Message,
    parse,
)
from sysmem_protocol.sysmem2 import BufferCollection

#: The method that may take arbitrarily long. Its response does not depend on when it was called.
PUT_OFF = BufferCollection.wait_for_all_buffers_allocated

_decoder = Decoder()


def unanswered(method: Method) -> TimeoutError:
    """Return the error of a call whose response did not arrive in time."""
    text = f"{method.name}() was not answered in time"
    if method is PUT_OFF:
        text += "; `sysmemctl why` shows which participants the allocation waits for"
    return TimeoutError(text)


#: The greatest txid of a client. The next higher bit marks the server's.
MAX_TXID = 0x7FFF_FFFF


def encode_request(method: Method, request: Table | None) -> tuple[bytes, list[Handle]]:
    """Return the body of a request, and the handles in it. The table keeps ownership of the handles.

    Raises `TypeError` or `ValueError` if a value can't be sent, or if a required field is not set.
    """
    if request is None:
        return b"", []
    for name in request.missing():
        raise TypeError(f"{method.name}() needs a value for {name}, not None")
    return encode(request)


def datagram(method: Method, body: bytes, txid: int = 0) -> bytes:
    """Return the bytes of a request; a txid of 0 makes it one-way."""
    return HEADER.pack(txid, FLAGS, MAGIC, method.ordinal) + body


def last_message(channel: Channel) -> Message | None:
    """Close an end of a channel. Return the message that had arrived there, which the caller owns, or None.

    Afterwards any attempt to send to this end fails, so a message that is not returned here was not sent.
    """
    try:
        channel.shut_down()
        arrived = channel.receive()
        return None if arrived is None else parse(*arrived)
    except (PeerClosedError, MalformedMessage):
        return None
    finally:
        channel.close()


class Told(NamedTuple):
    """The daemon's reason for an error or for the end of the channel."""

    reason: str | None = None
    report: str | None = None


_UNTOLD: Final = Told()


@dataclass(slots=True)
class Answer(Message):
    """The response to a call."""

    told: Told = _UNTOLD


class Call:
    """A request that was or will be sent, and its response once it has arrived."""

    __slots__ = ("abandoned", "answer", "error", "method", "parts", "txid")

    def __init__(self, method: Method, txid: int) -> None:
        self.method = method
        self.txid = txid
        self.answer: Answer | None = None
        #: The reason why there is no response although one arrived.
        self.error: OSError | None = None
        #: The descriptors so far of a split response that is not complete.
        self.parts: list[Handle] = []
        self.abandoned = False

    @property
    def done(self) -> bool:
        """Whether the call has a response or has failed."""
        return self.answer is not None or self.error is not None

    def result(self) -> Answer:
        """Return the response, which the caller owns, or raise the error."""
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer


class Calls:
    """The calls that have no response yet.

    Threads may begin calls concurrently, but only one at a time processes what arrives. There is no lock, because a
    signal handler could interrupt its holder. Concurrent operations have the same result in any order.
    """

    __slots__ = ("_last", "_outstanding", "_put_off", "_told", "_txids", "origin")

    def __init__(self) -> None:
        #: The last reason from the daemon. It belongs to the next error, or to the end of the channel.
        self._told = _UNTOLD
        #: The last reason from the daemon, used or not.
        self._last = _UNTOLD
        #: The reason of the failure of the token from which this channel was created; None if it had not failed.
        self.origin: str | None = None
        self._outstanding: dict[int, Call] = {}
        #: Those of the outstanding calls that are put off, and of whose responses nothing has arrived.
        self._put_off: dict[int, Call] = {}
        self._txids = itertools.count()

    @property
    def reason(self) -> str | None:
        """The last reason from the daemon; after the end of the channel, the reason for its end."""
        return self._last.reason

    @property
    def outstanding(self) -> bool:
        """Whether responses are outstanding, including those of abandoned calls."""
        return bool(self._outstanding)

    def begin(self, method: Method) -> Call:
        """Register a call before it is sent, with a txid that no outstanding call has."""
        while (txid := next(self._txids) % MAX_TXID + 1) in self._outstanding:
            pass
        call = self._outstanding[txid] = Call(method, txid)
        return call

    def resume(self, method: Method) -> Call | None:
        """Return a call of `method` that was sent and put off, to wait for it again. None if there is none."""
        if method is not PUT_OFF:
            return None
        try:
            return self._put_off.popitem()[1]
        except KeyError:
            return None

    def put_off(self, call: Call) -> None:
        """Put off a sent call that no caller waits for: as :meth:`abandon`, but it may be taken up again."""
        if call.method is not PUT_OFF or call.parts:
            self.abandon(call)
            return
        self._put_off[call.txid] = call
        # The one that removes the call owns it: another caller, or its response, which may have arrived before.
        if call.done and self._put_off.pop(call.txid, None) is not None:
            self.abandon(call)

    def forget(self, call: Call) -> None:
        """Remove a call that was not sent. No response will arrive."""
        self._outstanding.pop(call.txid, None)

    def abandon(self, call: Call) -> None:
        """Abandon a call that no caller waits for: close its response, now or when it arrives."""
        call.abandoned = True
        _close(call.parts)
        if call.answer is not None:
            call.answer.close()
            call.answer = None

    def arrived(self, data: bytes, handles: list[Handle]) -> Call | None:
        """Process a datagram and take ownership of its handles. Return the call that it completes, unless abandoned.

        Raises :class:`MalformedMessage` if it is not the response to an outstanding call.
        """
        return self._arrived(parse(data, handles, Answer))

    def lost(self, data: bytes) -> Call | None:
        """Process a datagram whose descriptors were lost. Its call fails, and the channel stays usable."""
        if len(data) < HEADER.size:
            raise MalformedMessage("descriptors without a message")
        txid, flags, _, ordinal = HEADER.unpack_from(data)
        message = Answer(txid, ordinal, more=flags == FLAGS_MORE)
        call = self._outstanding.get(message.txid)
        if call is not None:
            call.error = OSError(
                errno.EMFILE, f"no descriptors are left for the response to {call.method.name}()"
            )
            _close(call.parts)
        self._arrived(message)
        return call

    def take_in(self, channel: Channel, *, wait: bool = False) -> Call | bool:
        """Receive a datagram. Return the call that it completes, True if it completes none, or False if there is none.

        If a signal handler raises an exception meanwhile, the call that the datagram answers fails, even if another
        thread or task waits for it.

        Raises :class:`PeerClosedError` and :class:`MalformedMessage` if nothing more can be received.
        """
        arrived: tuple[bytes, list[Handle]] | None = None
        try:
            try:
                arrived = channel.receive(wait=wait)
            except DescriptorsLost as error:
                arrived = error.data, []
                return self.lost(error.data) or True
            return arrived is not None and (self.arrived(*arrived) or True)
        except (PeerClosedError, MalformedMessage):
            raise
        except BaseException:
            if arrived is None and channel.kept:  # the descriptor tells nobody else of it
                try:
                    arrived = channel.receive()
                except DescriptorsLost as error:
                    arrived = error.data, []
                except (PeerClosedError, MalformedMessage):
                    pass
            if arrived is not None:
                self._interrupted(*arrived)
            raise

    def _interrupted(self, data: bytes, handles: list[Handle]) -> None:
        """A datagram that was being taken in came to nothing, or not: its call fails if it has no answer."""
        if len(data) < HEADER.size:
            return
        txid, flags, _, _ = HEADER.unpack_from(data)
        # The call of a part stays outstanding, because the rest of the response is still to come.
        find = self._outstanding.get if flags == FLAGS_MORE else self._outstanding.pop
        call = find(txid, None)
        if call is not None and not call.done:
            call.error = InterruptedError(
                errno.EINTR,
                f"a signal handler raised an exception during the response to {call.method.name}()",
            )
            _close(call.parts)
            _close(handles)

    def _arrived(self, message: Answer) -> Call | None:
        if message.txid == 0:
            self._take_event(message)
            return None
        call = self._outstanding.get(message.txid)
        if call is None or call.method.ordinal != message.ordinal:
            message.close()
            raise MalformedMessage(
                f"a response with txid {message.txid} and ordinal {message.ordinal:#x}, "
                "which belongs to no outstanding call"
            )
        if self._put_off.pop(message.txid, None) is not None:
            self.abandon(call)
        if message.more:
            call.parts += message.handles
        else:
            if call.parts:
                message.handles[:0] = call.parts
                call.parts = []
            message.told, self._told = self._told, _UNTOLD
            call.answer = message
            del self._outstanding[message.txid]
        if call.abandoned or call.error is not None:
            self.abandon(call)
            return None
        return None if message.more else call

    def _take_event(self, message: Message) -> None:
        """Keep the reason in an event for the error or end that follows it. Unknown events are of later versions."""
        if message.ordinal != Explained.on_explained.ordinal:
            message.close()
            return
        try:
            event = _decoder.table(ExplainedOnExplainedEvent, message.body, message.handles)
        except DecodeError:
            return  # an invalid reason is no reason to close the channel
        reason = event.line
        if reason is not None and self.origin is not None:
            reason = f"{reason}; what became of the token: {self.origin}"
        report = None if event.report is None else _read(event.report)
        if report is None and reason == self._last.reason:
            report = self._last.report  # the daemon sends it only once
        self._told = self._last = Told(reason, report)

    def ended(self, error: PeerClosedError) -> PeerClosedError:
        """Return the error for the end of the channel, with its reason. No more responses arrive."""
        self.clear()
        self._last = self._told
        return error.again(*self._told)

    def clear(self) -> None:
        """Close the parts of incomplete responses, because no more responses arrive."""
        for call in tuple(self._outstanding.values()):
            _close(call.parts)
        self._outstanding.clear()
        self._put_off.clear()


def _read(report: Handle) -> str | None:
    with report, contextlib.suppress(OSError), open(report.fileno(), "rb", closefd=False) as file:
        file.seek(0)
        return file.read().decode(errors="replace")
    return None


def _close(handles: list[Handle]) -> None:
    with contextlib.suppress(IndexError):  # another thread may close them at the same time
        while handles:
            handles.pop().close()
