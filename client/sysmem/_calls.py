"""The calls outstanding on one client end, without I/O.

A call gets a txid when it begins, and its answer finds it by that. Who gives up waiting abandons the call: its answer
may still come, and is then closed with all descriptors in it. Both faces of the client drive this and add the waiting.

The one call that may take arbitrarily long is put off instead: who asks again takes it up where it is. So a program may
ask as often as it likes, though the daemon closes a channel with more than 1,024 unanswered calls.
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

#: The call that is answered when others are ready, and the same whenever it was asked.
PUT_OFF = BufferCollection.wait_for_all_buffers_allocated

_decoder = Decoder()

#: The greatest txid of a client; the bit above is the server's.
MAX_TXID = 0x7FFF_FFFF


def encode_request(method: Method, request: Table | None) -> tuple[bytes, list[Handle]]:
    """Return the body of a request and the handles in it, which stay the table's.

    Raises `TypeError` or `ValueError` for what can't be sent, and for a required field that is un-set.
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
    """Close an end of a channel; return what had come there, which the caller then owns, or None.

    From then on nothing can be sent to this end, and whoever tries notices: what isn't returned here has not been sent.
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
    """Why an error is answered or the channel closes, as the daemon says it."""

    reason: str | None = None
    report: str | None = None


_UNTOLD: Final = Told()


@dataclass(slots=True)
class Answer(Message):
    """The answer to a call."""

    told: Told = _UNTOLD


class Call:
    """A request that was or will be sent, and its answer when that has come."""

    __slots__ = ("abandoned", "answer", "error", "method", "parts", "txid")

    def __init__(self, method: Method, txid: int) -> None:
        self.method = method
        self.txid = txid
        self.answer: Answer | None = None
        #: Why there is no answer though one came.
        self.error: OSError | None = None
        #: Descriptors of a split answer of which more is to come.
        self.parts: list[Handle] = []
        self.abandoned = False

    @property
    def done(self) -> bool:
        """Whether there is nothing to wait for any more."""
        return self.answer is not None or self.error is not None

    def result(self) -> Answer:
        """Return the answer, which the caller then owns, or what is raised instead."""
        if self.error is not None:
            raise self.error
        assert self.answer is not None
        return self.answer


class Calls:
    """Which calls wait for an answer.

    Threads may call in any order, but one at a time takes in what arrives. There is no lock, for a signal's handler
    could interrupt who holds it: what two threads may do at once ends the same whichever of them is first.
    """

    __slots__ = ("_last", "_outstanding", "_put_off", "_told", "_txids", "origin")

    def __init__(self) -> None:
        #: What was told last and belongs to an answer that is still to come, or to the end.
        self._told = _UNTOLD
        #: What was told last, of whatever it was.
        self._last = _UNTOLD
        #: Why the token had failed already that this channel was made from; None if it hadn't.
        self.origin: str | None = None
        self._outstanding: dict[int, Call] = {}
        #: Those of them that are put off, of whose answers nothing has come.
        self._put_off: dict[int, Call] = {}
        self._txids = itertools.count()

    @property
    def reason(self) -> str | None:
        """The reason that was told last; once the channel has ended, the reason for that."""
        return self._last.reason

    @property
    def outstanding(self) -> bool:
        """Whether answers are still to come, also of calls that nobody waits for any more."""
        return bool(self._outstanding)

    def begin(self, method: Method) -> Call:
        """Note a call that is about to be sent, with a txid that no other outstanding one has."""
        while (txid := next(self._txids) % MAX_TXID + 1) in self._outstanding:
            pass
        call = self._outstanding[txid] = Call(method, txid)
        return call

    def resume(self, method: Method) -> Call | None:
        """Return a call of `method` that was sent and put off, to be waited for again; None when there is none."""
        if method is not PUT_OFF:
            return None
        try:
            return self._put_off.popitem()[1]
        except KeyError:
            return None

    def put_off(self, call: Call) -> None:
        """Nobody waits for now for this call, which was sent: as :meth:`abandon`, but it may be taken up again."""
        if call.method is not PUT_OFF or call.parts:
            self.abandon(call)
            return
        self._put_off[call.txid] = call
        # Who takes it out has the call: another caller, or its answer, which may have come before it was put in.
        if call.done and self._put_off.pop(call.txid, None) is not None:
            self.abandon(call)

    def forget(self, call: Call) -> None:
        """Drop a call that was never sent: no answer will come."""
        self._outstanding.pop(call.txid, None)

    def abandon(self, call: Call) -> None:
        """Nobody waits for this call any more: close its answer, now or when it comes."""
        call.abandoned = True
        _close(call.parts)
        if call.answer is not None:
            call.answer.close()
            call.answer = None

    def arrived(self, data: bytes, handles: list[Handle]) -> Call | None:
        """Take in a datagram and own its handles; the call that it completes and that somebody waits for, if any.

        Raises :class:`MalformedMessage` for what is no answer to an outstanding call.
        """
        return self._arrived(parse(data, handles, Answer))

    def lost(self, data: bytes) -> Call | None:
        """Take in a datagram whose descriptors this process had no room for: that call fails, the channel goes on."""
        if len(data) < HEADER.size:
            raise MalformedMessage("descriptors without a message")
        txid, flags, _, ordinal = HEADER.unpack_from(data)
        message = Answer(txid, ordinal, more=flags == FLAGS_MORE)
        call = self._outstanding.get(message.txid)
        if call is not None:
            call.error = OSError(
                errno.EMFILE, f"no descriptors are left for the answer to {call.method.name}()"
            )
            _close(call.parts)
        self._arrived(message)
        return call

    def take_in(self, channel: Channel, *, wait: bool = False) -> Call | bool:
        """Receive a datagram; False if there is none. Returns the call that it completes if somebody waits for that.

        If an exception of a signal's handler comes meanwhile, the call that the datagram answers fails; it may be
        another thread's or task's.

        Raises :class:`PeerClosedError` and :class:`MalformedMessage` when there is nothing more to be received.
        """
        arrived: tuple[bytes, list[Handle]] | None = None
        try:
            try:
                arrived = channel.receive(wait=wait)
                return arrived is not None and (self.arrived(*arrived) or True)
            except DescriptorsLost as error:
                return self.lost(error.data) or True
        except (PeerClosedError, MalformedMessage):
            raise
        except BaseException:
            if arrived is None and channel.kept:  # the descriptor tells nobody else of it
                with contextlib.suppress(PeerClosedError, MalformedMessage):
                    arrived = channel.receive()
            if arrived is not None:
                self._interrupted(*arrived)
            raise

    def _interrupted(self, data: bytes, handles: list[Handle]) -> None:
        """A datagram that was being taken in came to nothing, or not: its call fails if it has no answer."""
        call = (
            self._outstanding.pop(HEADER.unpack_from(data)[0], None)
            if len(data) >= HEADER.size
            else None
        )
        if call is not None and not call.done:
            call.error = InterruptedError(
                errno.EINTR,
                f"a signal handler's exception came instead of the answer to {call.method.name}()",
            )
            _close(handles)

    def _arrived(self, message: Answer) -> Call | None:
        if message.txid == 0:
            self._take_event(message)
            return None
        call = self._outstanding.get(message.txid)
        if call is None or call.method.ordinal != message.ordinal:
            message.close()
            raise MalformedMessage(
                f"an answer with txid {message.txid} and ordinal {message.ordinal:#x}, "
                "which is to no outstanding call"
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
        """Keep what an event says of the answer or the end that follows it. Other events are of a later version."""
        if message.ordinal != Explained.on_explained.ordinal:
            message.close()
            return
        try:
            event = _decoder.table(ExplainedOnExplainedEvent, message.body, message.handles)
        except DecodeError:
            return  # it isn't worth more than the channel
        reason = event.line
        if reason is not None and self.origin is not None:
            reason = f"{reason}; what became of the token: {self.origin}"
        report = None if event.report is None else _read(event.report)
        if report is None and reason == self._last.reason:
            report = self._last.report  # it is sent once
        self._told = self._last = Told(reason, report)

    def ended(self, error: PeerClosedError) -> PeerClosedError:
        """Return the error for the end of the channel, with what was told of it; no answer comes any more."""
        self.clear()
        self._last = self._told
        return error.again(*self._told)

    def clear(self) -> None:
        """No answer comes any more: close what has come of incomplete ones."""
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
    with contextlib.suppress(IndexError):  # another thread closes them too
        while handles:
            handles.pop().close()
