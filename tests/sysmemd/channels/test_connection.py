"""What bad input gets, and how answers go out: the connection with a server that does as it is told."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import socket
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from sysmem_protocol import codec, sysmem2
from sysmem_protocol.channel import AT_ONCE, Channel, PeerClosedError
from sysmem_protocol.explained import Explained, ExplainedOnExplainedEvent
from sysmem_protocol.handles import Handle, channel_pair, eventpair
from sysmem_protocol.library import Interface, Method, Table
from sysmem_protocol.message import FLAGS_MORE, MAX_MESSAGE_BYTES, Message, parse
from sysmem_protocol.sysmem2 import (
    Allocator,
    BufferCollection,
    BufferCollectionToken,
    Error,
    Node,
)
from sysmemd.channels.connection import Connection, Tracer
from sysmemd.channels.deferred import Deferred
from sysmemd.channels.errors import Failed, Refused
from sysmemd.config import Limits
from sysmemd.in_flight import InFlight
from sysmemd.pause import Holder
from sysmemd.ports import Peer
from sysmemd.quota import Exceeded, Kind
from sysmemd.tree import Misuse

from ..accounts import new_users
from .support import STRANGER, HandReactor, RecordingLog, header, is_closed

_decoder = codec.Decoder()


class Made:
    """An answer that is made by a function."""

    def __init__(self, make: Callable[[], Table | Error | None]) -> None:
        self.make = make
        self.times_done = 0

    def instead(self, error: OSError) -> Error:
        return Error.NO_MEMORY

    def done(self) -> None:
        self.times_done += 1


class StubServer:
    """Answers as `serve` says; closes the connection when it is to end."""

    interface: ClassVar[type[Interface]] = BufferCollection
    connection: Connection

    def __init__(self, interface: type[Interface]) -> None:
        self.interface = interface  # type: ignore[misc] # one class for all of them
        self.called: list[tuple[str, Table | None]] = []
        self.serve: Callable[..., Any] = lambda *_: None
        self.reasons: list[str] = []
        self.peer_closings = 0
        self.silent = False
        self.at_the_end: Callable[[], None] = lambda: None
        self.holder: Holder | None = None

    def held_by(self) -> Holder | None:
        return self.holder

    def changed_by(self) -> None:
        """Nothing but its holder."""

    def about(self) -> dict[str, Any]:
        return {"client_name": "camera", "client_id": 7}

    def expect_message(self) -> None:
        if self.silent:
            raise Misuse("a message on a released token")

    def refuse(self, reason: str) -> None:
        self.reasons.append(reason)
        self.at_the_end()
        self.connection.finish()

    def failed(self, reason: str) -> None:
        self.refuse(reason)

    def peer_closed(self) -> None:
        self.peer_closings += 1
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
        """Process everything that has arrived."""
        self.reactor.receive_all()

    def receive(self) -> Message | None:
        received = self.client.receive()
        return None if received is None else parse(*received)

    def answers(self) -> list[int]:
        """The txids of all answers that are there; the end of the channel is none."""
        found = []
        with contextlib.suppress(PeerClosedError):
            while (message := self.receive()) is not None:
                found.append(message.txid)
                message.close()
        return found

    def fill(self) -> None:
        """Fill the client's queue with answers to nothing."""
        while self.channel.send(header(0x7FFF_FFFF, 1)):
            pass

    def drain(self) -> None:
        """Read what `fill` sent."""
        while self.client.receive() is not None:
            pass

    @property
    def reason(self) -> str:
        """Why the server was told to end, once."""
        [reason] = self.server.reasons
        assert self.connection.closed
        return reason

    def former_owner(self) -> socket.socket:
        """The server end, as a client may have kept it."""
        return socket.socket(fileno=os.dup(self.channel.fileno()))

    def drain_until_closed(self) -> None:
        """Read what `fill` sent, to the end of the channel: nothing comes after it."""
        with contextlib.suppress(PeerClosedError):
            while True:
                message = self.receive()
                assert message is not None, "the channel is open"
                assert message.txid == 0x7FFF_FFFF

    def close(self) -> None:
        self.connection.close()
        self.in_flight.close()
        self.client.close()


@pytest.fixture
def new_line() -> Iterator[Callable[..., Line]]:
    made: list[Line] = []

    def make(interface: type[Interface] = BufferCollection, **limits: int) -> Line:
        made.append(Line(interface, Limits(**limits)))
        return made[-1]

    yield make
    for line in made:
        line.close()


@pytest.fixture
def line(new_line: Callable[..., Line]) -> Line:
    return new_line()


def null() -> Handle:
    return Handle(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))


def server_end() -> tuple[Handle, Handle]:
    near, far = channel_pair()
    return Handle(near.detach()), Handle(far.detach())


# --- requests and answers -------------------------------------------------------------------------------------------


def test_a_call_is_answered_with_its_txid_and_ordinal(line: Line) -> None:
    line.server.serve = lambda: sysmem2.NodeGetBufferCollectionIdResponse(buffer_collection_id=99)
    line.send(Node.get_buffer_collection_id, txid=5)
    line.serve()
    message = line.receive()
    assert message is not None
    assert (message.txid, message.ordinal) == (5, Node.get_buffer_collection_id.ordinal)
    answer = _decoder.response(Node.get_buffer_collection_id, message.body, message.handles)
    assert answer == sysmem2.NodeGetBufferCollectionIdResponse(buffer_collection_id=99)


def test_a_one_way_request_has_no_answer(line: Line) -> None:
    line.send(Node.set_name, bytes.fromhex("a20101026161"))
    line.serve()
    assert line.server.called == [("set_name", sysmem2.NodeSetNameRequest(priority=1, name="a"))]
    assert line.receive() is None
    assert line.connection.reading


def test_messages_are_processed_in_order_one_at_a_time(line: Line) -> None:
    line.send(Node.release)
    line.send(Node.sync, txid=1)
    line.send(Node.sync, txid=2)
    assert line.connection.receive()  # after a one-way message another one is likely
    assert line.answers() == []
    assert not line.connection.receive()  # who makes a call mostly waits for its answer
    assert line.answers() == [1]
    assert not line.connection.receive()
    assert line.answers() == [2]
    assert not line.connection.receive()


class Forever:
    """Holds a connection."""

    def when_idle(self, callback: Callable[[], None]) -> None:
        """It never is."""


def test_what_is_held_stays_in_the_channel(line: Line) -> None:
    line.send(BufferCollection.set_constraints, b"\xa0")
    line.send(Node.release)
    line.server.holder = Forever()
    line.serve()
    assert line.reactor.held == {line.connection}
    assert line.server.called == []
    assert line.connection.receive_until(b"nonce") is False
    assert [name for name, _ in line.server.called] == ["set_constraints", "release"]
    line.send(Node.release)
    assert not line.connection.receive()
    assert len(line.server.called) == 2
    line.connection.receive_until(None)
    assert len(line.server.called) == 3
    line.client.close()
    assert not line.connection.receive()
    assert line.server.peer_closings == 0
    line.server.holder = None
    line.reactor.held.clear()
    line.serve()
    assert line.server.peer_closings == 1


def test_a_hold_that_begins_with_a_message_holds_the_next(line: Line) -> None:
    line.send(Node.release)
    line.send(Node.release)

    def hold() -> None:
        line.server.holder = Forever()

    line.server.serve = hold
    line.serve()
    assert len(line.server.called) == 1


def test_what_does_not_read_is_not_held(line: Line) -> None:
    line.server.holder = Forever()
    line.connection.close()
    assert not line.connection.receive()
    assert line.reactor.held == set()


def test_handles_that_a_server_takes_are_its_own_and_all_others_are_closed(
    new_line: Callable[..., Line],
) -> None:
    line = new_line(BufferCollectionToken)
    watched, given = eventpair()
    taken: list[int] = []
    body = bytes.fromhex("a101d97a5d00")
    line.server.serve = lambda request: taken.append(request.server_end.take())
    line.send(Node.attach_node_tracking, body, 0, given)
    line.serve()
    assert not is_closed(watched)
    os.close(taken[0])
    watched.close()

    watched, given = eventpair()
    line.server.serve = lambda request: None
    line.send(Node.attach_node_tracking, body, 0, given)
    line.serve()
    assert is_closed(watched)
    watched.close()


def test_an_unknown_field_is_ignored_and_its_descriptor_closed(line: Line) -> None:
    watched, given = eventpair()
    # 1: 2, 2: "a", 99: [the handle, null, 1.5]
    line.send(Node.set_name, bytes.fromhex("a3010202616118 6383d97a5d00f6f93e00"), 0, given)
    line.serve()
    assert line.server.called == [("set_name", sysmem2.NodeSetNameRequest(priority=2, name="a"))]
    assert is_closed(watched)
    watched.close()


def test_an_answers_handles_are_sent_and_closed(new_line: Callable[..., Line]) -> None:
    line = new_line(BufferCollectionToken)
    answer = sysmem2.NodeGetNodeRefResponse(node_ref=null())
    line.server.serve = lambda: answer
    line.send(Node.get_node_ref, txid=1)
    line.serve()
    message = line.receive()
    assert message is not None
    assert len(message.handles) == 1
    message.close()
    assert answer.node_ref is not None
    assert answer.node_ref.closed


def test_an_error_is_an_answer_and_is_logged_with_its_reason(line: Line) -> None:
    def serve(request: Table) -> None:
        raise Failed(Error.NOT_FOUND, "$.node_ref is nobody's")

    line.server.serve = serve
    line.send(Node.is_alternate_for, bytes.fromhex("a101d97a5d00"), 1, null())
    line.serve()
    message = line.receive()
    assert message is not None
    assert message.body == bytes.fromhex("a10203")
    assert line.connection.reading
    assert line.log.entries == [
        (
            "info",
            "a call was answered with an error",
            {
                "method": "Node.IsAlternateFor",
                "error": "NOT_FOUND",
                "reason": "$.node_ref is nobody's",
                "client_name": "camera",
                "client_id": 7,
            },
        )
    ]


# --- what bad input gets ----------------------------------------------------------------------------------------------

SYNC = Node.sync.ordinal
BAD_MESSAGES = {
    "short header": (header(1, SYNC)[:15], "15 bytes are not a message"),
    "bad magic": (header(1, SYNC, magic=2), "magic number 0x02"),
    "wrong flags": (header(1, SYNC, b"\x00\x00\x80"), "flags 000080"),
    "empty datagram": (b"", "empty or larger than 65536 bytes"),
    "oversize": (header(1, SYNC) + bytes(MAX_MESSAGE_BYTES), "empty or larger than 65536 bytes"),
    "unknown ordinal": (header(1, 12), "BufferCollection has no method with ordinal 0x00000000"),
    "another interface's": (
        header(0, BufferCollectionToken.set_dispensable.ordinal),
        "BufferCollection has no method with ordinal 0x228acf",
    ),
    "split, with a body": (header(1, SYNC, FLAGS_MORE) + b"x", "has descriptors and no body"),
    "one-way with a txid": (
        header(3, Node.release.ordinal),
        "Node.Release is one-way, but has the txid 0x3",
    ),
    "two-way without": (header(0, SYNC), "Node.Sync needs a txid from 1 to 0x7fffffff, not 0x0"),
    "the server's txids": (header(0x80000000, SYNC), "not 0x80000000"),
    "not CBOR": (header(0, Node.set_name.ordinal) + b"\xff", r"Node.SetName: \$: "),
    "a body where none is": (header(1, SYNC) + b"\xa0", "1 bytes and 0 descriptors"),
    "required field": (header(0, Node.set_name.ordinal) + b"\xa1\x01\x01", r"\$.name is required"),
    "index out of range": (
        header(0, Node.attach_node_tracking.ordinal) + bytes.fromhex("a101d97a5d01"),
        "0 descriptors, but the body",
    ),
}


bad_messages = pytest.mark.parametrize(
    ("data", "reason"), BAD_MESSAGES.values(), ids=[name.replace(" ", "-") for name in BAD_MESSAGES]
)


@bad_messages
def test_a_message_that_is_none_closes_the_channel(line: Line, data: bytes, reason: str) -> None:
    line.send_raw(data)
    line.send(Node.sync, txid=9)  # isn't served any more
    line.serve()
    assert re.search(reason, line.reason), line.reason
    assert line.server.called == []
    assert line.answers() == []


@bad_messages
def test_descriptors_of_a_refused_message_are_closed(line: Line, data: bytes, reason: str) -> None:
    watched, given = eventpair()
    line.send_raw(data, given)
    line.serve()
    assert line.reason
    assert is_closed(watched)
    watched.close()


def test_a_split_request_closes_the_channel(line: Line) -> None:
    line.send_raw(header(1, SYNC, FLAGS_MORE), null())
    line.serve()
    assert line.reason == "Node.Sync: only answers may be split"


def test_descriptors_that_the_daemon_has_no_room_for_close_the_channel(line: Line) -> None:
    with null() as source:
        line.send_raw(header(1, SYNC), *(source.duplicate() for _ in range(3)))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with source.duplicate() as free:
            limit = free.fileno() + 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            line.serve()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "control data was truncated" in line.reason


def test_credentials_that_a_former_owner_asked_for_are_no_descriptors(line: Line) -> None:
    with line.former_owner() as former:
        former.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    line.send(Node.sync, txid=1)
    line.serve()
    assert line.answers() == [1]


def test_a_txid_in_use_closes_the_channel(line: Line) -> None:
    line.server.serve = Deferred
    line.send(BufferCollection.wait_for_all_buffers_allocated, txid=4)
    line.send(BufferCollection.wait_for_all_buffers_allocated, txid=4)
    line.serve()
    assert "the call with txid 0x4 hasn't been answered yet" in line.reason


def test_an_answered_txid_can_be_used_again(line: Line) -> None:
    for _ in range(2):
        line.send(Node.sync, txid=4)
    line.serve()
    assert line.answers() == [4, 4]


def test_more_unanswered_calls_than_the_bound_close_the_channel(
    new_line: Callable[..., Line],
) -> None:
    line = new_line(max_unanswered_calls=3)
    line.server.serve = Deferred
    for txid in (1, 2, 3):
        line.send(BufferCollection.wait_for_all_buffers_allocated, txid=txid)
    line.serve()
    assert line.connection.reading
    line.send(BufferCollection.wait_for_all_buffers_allocated, txid=4)
    line.serve()
    assert line.reason == "more than 3 calls wait for their answer"


def test_no_message_is_served_when_none_may_come(line: Line) -> None:
    line.server.silent = True
    line.send(Node.sync, txid=1)
    line.serve()
    assert line.reason == "a message on a released token"
    assert line.server.called == []


@pytest.mark.parametrize("error", [Refused("not so"), Misuse("not so")], ids=["Refused", "Misuse"])
def test_what_the_server_refuses_closes_the_channel(line: Line, error: Exception) -> None:
    def serve() -> None:
        raise error

    line.server.serve = serve
    line.send(Node.sync, txid=1)
    line.serve()
    assert line.reason == "not so"
    assert line.answers() == []


# --- handles of the wrong kind ----------------------------------------------------------------------------------------

_TOKEN = BufferCollectionToken
WRONG_KINDS = {
    "server end": (
        _TOKEN,
        _TOKEN.duplicate,
        "a2011a8000000002d97a5d00",
        "BufferCollectionToken.Duplicate: $.token_request must be one end of a connected, nameless SOCK_SEQPACKET "
        "pair, not a character device",
    ),
    "eventpair": (
        _TOKEN,
        Node.attach_node_tracking,
        "a101d97a5d00",
        "Node.AttachNodeTracking: $.server_end must be one end of a connected, nameless SOCK_STREAM or "
        "SOCK_SEQPACKET pair, not a character device",
    ),
    "vmo": (
        BufferCollection,
        BufferCollection.set_constraints,
        "a102d97a5d00",
        "BufferCollection.SetConstraints: $.must_match_vmo must be a memfd or regular file, not a character device",
    ),
}


@pytest.mark.parametrize(
    ("interface", "method", "body", "reason"), WRONG_KINDS.values(), ids=WRONG_KINDS
)
def test_a_handle_of_the_wrong_kind_closes_the_channel(
    new_line: Callable[..., Line],
    interface: type[Interface],
    method: Method,
    body: str,
    reason: str,
) -> None:
    line = new_line(interface)
    line.send(method, bytes.fromhex(body), 0, null())
    line.serve()
    assert line.reason == reason
    assert line.server.called == []


@pytest.mark.parametrize(
    ("body", "handles"),
    [("a0", 0), ("a102f5", 0), ("a101d97a5d00", 1)],
    ids=["empty", "un-set", "of the wrong kind"],
)
def test_get_vmo_info_answers_protocol_deviation(
    new_line: Callable[..., Line], body: str, handles: int
) -> None:
    line = new_line(Allocator)
    given = [null() for _ in range(handles)]
    line.send(Allocator.get_vmo_info, bytes.fromhex(body), 1, *given)
    line.serve()
    message = line.receive()
    assert message is not None
    assert message.body == bytes.fromhex("a10202")
    assert line.connection.reading
    assert line.server.called == []
    [(event, fields)] = line.log.said("info")
    assert event == "a call was answered with an error"
    assert fields["error"] == "PROTOCOL_DEVIATION"
    assert fields["reason"].startswith("$.vmo ")


@pytest.mark.parametrize(
    ("interface", "method", "answered"),
    [(Allocator, Allocator.get_vmo_info, True), (Node, Node.get_node_ref, False)],
)
def test_an_answer_whose_descriptors_cannot_be_sent_is_an_error_where_there_is_one(
    new_line: Callable[..., Line],
    monkeypatch: pytest.MonkeyPatch,
    interface: type[Interface],
    method: Method,
    answered: bool,
) -> None:
    line = new_line(interface)
    send = Channel.send

    def too_many(channel: Channel, data: bytes, handles: Any = ()) -> int:
        if handles:
            raise OSError(errno.ETOOMANYREFS, "Too many references")
        return send(channel, data, handles)

    monkeypatch.setattr(Channel, "send", too_many)
    if answered:
        line.connection.answer(method, 3, sysmem2.VmoInfo(weak_vmo=null()))
        message = line.receive()
        assert message is not None
        assert message.body == bytes.fromhex("a10201")
    else:
        with pytest.raises(OSError, match="Too many references"):
            line.connection.answer(method, 3, sysmem2.NodeGetNodeRefResponse(node_ref=null()))


def test_get_vmo_info_that_does_not_decode_closes_the_channel(
    new_line: Callable[..., Line],
) -> None:
    line = new_line(Allocator)
    line.send(Allocator.get_vmo_info, b"\xa1\x01\x05", 1)
    line.serve()
    assert "$.vmo" in line.reason


# --- answers that wait ------------------------------------------------------------------------------------------------


def test_answers_wait_for_a_client_that_does_not_read(line: Line) -> None:
    line.fill()
    for txid in (1, 2, 3):
        line.send(Node.sync, txid=txid)
    line.serve()
    assert line.reactor.to_flush
    assert not line.connection.flush()
    line.drain()
    assert line.connection.flush()
    assert line.answers() == [1, 2, 3]


@pytest.mark.parametrize("limits", [{"max_outbox_messages": 3}, {"max_outbox_bytes": 48}])
def test_more_waiting_answers_than_the_bound_close_the_channel_at_once(
    new_line: Callable[..., Line], limits: dict[str, int]
) -> None:
    line = new_line(**limits)
    line.fill()
    for txid in (1, 2, 3, 4):
        line.send(Node.sync, txid=txid)
    line.serve()
    assert "responses of 64 bytes are unread" in line.reason
    line.drain_until_closed()


def test_a_refused_client_gets_no_more_answers(line: Line) -> None:
    line.fill()
    line.send(Node.sync, txid=1)
    line.send_raw(b"nonsense")
    line.serve()
    assert line.reason
    line.drain_until_closed()


def test_a_queue_beyond_its_users_limit_closes_a_channel_that_is_about_to_end_too(
    line: Line,
) -> None:
    line.fill()
    line.send(Node.sync, txid=1)
    line.serve()
    line.connection.finish()
    before = line.connection.closed
    line.connection.overflow(Exceeded(Kind.QUEUED_BYTES, 1, 1))
    assert (before, line.connection.closed) == (False, True)


def test_a_deferred_answer_is_sent_by_the_next_flush(line: Line) -> None:
    call = Deferred()
    line.server.serve = lambda: call
    line.send(BufferCollection.wait_for_all_buffers_allocated, txid=6)
    line.serve()
    assert line.reactor.to_flush == []
    made = Made(lambda: Error.NO_MEMORY)
    call.answer_with(made)
    assert line.answers() == []  # not from within the call
    assert made.times_done == 0
    assert line.reactor.to_flush == [line.connection]
    assert line.connection.flush()
    assert made.times_done == 1
    message = line.receive()
    assert message is not None
    assert (message.txid, message.body) == (6, bytes.fromhex("a10205"))


def test_a_deferred_answer_that_is_known_already_is_sent_too(line: Line) -> None:
    line.server.serve = lambda: Deferred(Made(lambda: Error.NO_MEMORY))
    line.send(BufferCollection.wait_for_all_buffers_allocated, txid=6)
    line.serve()
    line.reactor.run()
    assert line.answers() == [6]


def test_a_deferred_answer_to_a_closed_channel_is_dropped(line: Line) -> None:
    call = Deferred()
    line.server.serve = lambda: call
    line.send(BufferCollection.wait_for_all_buffers_allocated, txid=6)
    line.serve()
    line.connection.close()
    made = Made(lambda: pytest.fail("made in vain"))
    call.answer_with(made)
    assert made.times_done == 1
    assert line.reactor.to_flush == []


def test_an_event_of_a_stream_is_made_when_there_is_room(line: Line) -> None:
    happened: list[str] = []

    def make() -> Table:
        happened.append("made")
        return ExplainedOnExplainedEvent(line="x")

    def stream() -> None:
        line.connection.stream(Explained.on_explained, make, lambda: happened.append("done"))

    stream()
    assert happened == []
    line.reactor.run()
    assert happened == ["made", "done"]
    message = line.receive()
    assert message is not None
    assert (message.txid, message.ordinal) == (0, Explained.on_explained.ordinal)
    assert line.connection.sent == 1
    line.connection.close()
    stream()
    assert happened == ["made", "done", "done"]
    assert line.connection.sent == 1


def test_more_deferred_answers_than_the_bound_close_the_channel(
    new_line: Callable[..., Line],
) -> None:
    line = new_line(max_outbox_messages=2)
    calls = [Deferred() for _ in range(3)]
    waiting = iter(calls)
    line.server.serve = lambda: next(waiting)
    for txid in (1, 2, 3):
        line.send(BufferCollection.wait_for_all_buffers_allocated, txid=txid)
    line.serve()
    line.fill()
    for call in calls:
        call.answer_with(Made(lambda: Error.NO_MEMORY))
    assert line.server.reasons == []  # not from within the call
    assert line.connection.flush()
    assert "3 responses of 3072 bytes are unread" in line.reason


def test_an_answer_to_a_server_that_closed_meanwhile_is_dropped(line: Line) -> None:
    answer = sysmem2.NodeGetNodeRefResponse(node_ref=null())

    def serve() -> Table:
        line.connection.close()
        return answer

    line.server.serve = serve
    line.send(Node.get_node_ref, txid=1)
    line.serve()
    assert line.answers() == []
    assert answer.node_ref is not None
    assert answer.node_ref.closed


def test_a_client_that_closes_without_waiting_is_heard_to_the_end(line: Line) -> None:
    line.send(Node.sync, txid=1)
    line.send(Node.release)
    line.client.close()
    line.serve()
    assert [name for name, _ in line.server.called] == ["sync", "release"]
    assert line.server.peer_closings == 1
    assert line.server.reasons == []
    assert line.connection.closed


def test_answers_that_wait_for_a_client_that_closes_are_dropped(line: Line) -> None:
    line.fill()
    line.send(Node.sync, txid=1)
    line.serve()
    line.client.close()
    assert line.connection.flush()
    assert line.connection.reading  # what it sent before it closed counts
    line.serve()
    assert line.server.peer_closings == 1
    assert line.connection.closed


# --- the end ----------------------------------------------------------------------------------------------------------


def test_the_clients_end_of_sending_is_its_end(line: Line) -> None:
    with socket.socket(fileno=os.dup(line.client.fileno())) as client:
        client.shutdown(socket.SHUT_WR)
    line.serve()
    assert line.server.peer_closings == 1


@pytest.mark.parametrize("how", [socket.SHUT_RD, socket.SHUT_WR, socket.SHUT_RDWR])
def test_a_former_owner_that_shuts_the_server_end_down_harms_itself(line: Line, how: int) -> None:
    with line.former_owner() as former:
        former.shutdown(how)
    with contextlib.suppress(PeerClosedError):
        line.send(Node.sync, txid=1)
    line.serve()
    assert line.connection.flush()
    assert line.server.reasons == []
    assert line.answers() == []


def test_a_former_owner_that_reads_harms_itself(line: Line) -> None:
    line.send(Node.sync, txid=1)
    with line.former_owner() as former:
        former.recv(100)
    line.serve()
    assert line.connection.reading


def test_a_former_owner_that_lets_the_server_end_block_is_not_waited_for(line: Line) -> None:
    with line.former_owner() as former:
        former.setblocking(True)
    line.serve()
    line.fill()
    line.send(Node.sync, txid=1)
    line.serve()
    assert not line.connection.flush()


def test_a_former_owner_that_makes_the_buffers_tiny_harms_itself(line: Line) -> None:
    """The kernel keeps room enough for any single answer."""
    with line.former_owner() as former:
        former.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        former.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    info = sysmem2.BufferCollectionInfo(
        settings=sysmem2.SingleBufferSettings(
            image_format_constraints=sysmem2.ImageFormatSettings(
                required_max_size_list=[sysmem2.SizeU(0xFFFFFFF, index) for index in range(64)],
            )
        ),
        buffers=[sysmem2.VmoBuffer(vmo_usable_start=0xFFFF_FFFF_FFFF_0000)] * 128,
    )
    answer = sysmem2.BufferCollectionWaitForAllBuffersAllocatedResponse(buffer_collection_info=info)
    line.server.serve = lambda: Deferred(Made(lambda: answer))
    for txid in (1, 2, 3, 4, 5):
        line.send(BufferCollection.wait_for_all_buffers_allocated, txid=txid)
    line.serve()
    found = []
    while not line.connection.flush():
        found += line.answers()
    assert found + line.answers() == [1, 2, 3, 4, 5]


def test_finishing_waits_for_the_last_answer_and_processes_nothing_more(line: Line) -> None:
    line.fill()
    line.send(Node.sync, txid=1)
    line.serve()
    line.connection.finish()
    with contextlib.suppress(PeerClosedError):
        line.send(Node.sync, txid=2)
    line.serve()
    assert not line.connection.flush()
    line.drain()
    assert line.connection.flush()
    assert line.connection.closed
    assert line.answers() == [1]


def test_finishing_ends_when_the_last_answer_can_not_be_sent(line: Line) -> None:
    call = Deferred()
    line.server.serve = lambda: call
    line.send(BufferCollection.wait_for_all_buffers_allocated, txid=6)
    line.serve()

    def make() -> Error:
        raise OSError(errno.ETOOMANYREFS, "too many in flight")

    call.answer_with(Made(make))
    line.connection.finish()
    assert line.connection.flush()
    assert line.connection.closed
    assert line.server.reasons == []


def test_closing_tells_the_reactor_once_and_drops_everything(line: Line) -> None:
    line.fill()
    line.send(Node.sync, txid=1)
    line.serve()
    for _ in range(2):
        line.connection.close()
    line.connection.finish()
    assert line.reactor.closed == [line.connection]
    assert line.connection.flush()
    line.serve()


def test_shutting_down_sending_lets_the_client_see_the_end_and_still_be_heard(line: Line) -> None:
    line.connection.shutdown_sending()
    with pytest.raises(PeerClosedError):
        line.receive()
    line.send(Node.release)
    line.serve()
    assert [name for name, _ in line.server.called] == ["release"]


def test_sending_is_shut_down_after_the_last_answer(line: Line) -> None:
    line.fill()
    line.send(Node.sync, txid=1)
    line.serve()
    line.connection.shutdown_sending()
    line.drain()
    assert line.connection.flush()
    assert line.answers() == [1]
    with pytest.raises(PeerClosedError):
        line.receive()
    assert line.connection.reading


# --- when the daemon fails --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "unforeseen"),
    [(OSError(errno.EMFILE, "Too many open files"), False), (KeyError("oh"), True)],
    ids=["OSError", "unforeseen"],
)
def test_what_the_server_raises_closes_the_channel_and_is_logged(
    line: Line, error: Exception, unforeseen: bool
) -> None:
    def serve(*_: object) -> None:
        raise error

    watched, given = eventpair()
    line.server.serve = serve
    line.send(Node.attach_node_tracking, bytes.fromhex("a101d97a5d00"), 0, given)
    line.serve()
    assert line.reason == repr(error)
    assert line.log.entries == [
        (
            "error",
            "an error occurred while a message was processed",
            {
                "reason": repr(error),
                "exc_info": unforeseen,
                "client_name": "camera",
                "client_id": 7,
            },
        )
    ]
    assert is_closed(watched)
    watched.close()


def test_an_answer_that_can_not_be_made_closes_the_channel(line: Line) -> None:
    def make() -> None:
        raise KeyError("oh")

    line.server.serve = lambda: Deferred(Made(make))
    line.send(BufferCollection.wait_for_all_buffers_allocated, txid=6)
    line.serve()
    assert line.connection.flush()
    assert line.reason == "KeyError('oh')"
    assert line.log.said("error")[0][0] == "a response cannot be sent"


@pytest.mark.parametrize("refused", [False, True], ids=["peer closed", "refused"])
def test_a_server_that_ends_badly_takes_only_its_channel_with_it(line: Line, refused: bool) -> None:
    def fail() -> None:
        raise KeyError("oh")

    line.server.at_the_end = fail
    if refused:
        line.send_raw(b"nonsense")
    else:
        line.client.close()
    line.serve()
    assert line.connection.closed
    [(event, fields)] = line.log.said("error")
    assert event == "an error occurred while a channel was closed"
    assert fields == {"reason": "KeyError('oh')", "exc_info": True}


def test_a_channel_that_can_not_be_received_from_closes(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    def receive(self: Channel) -> None:
        raise OSError(errno.ENOMEM, "Out of memory")

    monkeypatch.setattr(Channel, "receive", receive)
    line.connection.receive()
    assert line.reason == "receiving failed: [Errno 12] Out of memory"


# --- nonces -----------------------------------------------------------------------------------------------------------

NONCE = b"n" * 32


def test_everything_before_the_nonce_is_processed_and_nothing_after_it(line: Line) -> None:
    line.send(Node.sync, txid=1)
    line.send_raw(NONCE)
    line.send(Node.sync, txid=2)
    assert line.connection.receive_until(NONCE)
    assert line.answers() == [1]
    line.serve()
    assert line.answers() == [2]


def test_descriptors_beside_the_nonce_are_closed(line: Line) -> None:
    watched, given = eventpair()
    line.send_raw(NONCE, given)
    assert line.connection.receive_until(NONCE)
    assert is_closed(watched)
    watched.close()


def test_a_nonce_that_does_not_come(line: Line) -> None:
    line.send(Node.sync, txid=1)
    assert not line.connection.receive_until(NONCE)
    assert line.answers() == [1]
    assert line.connection.reading


def test_a_channel_that_ends_before_the_nonce(line: Line) -> None:
    line.send_raw(b"nonsense")
    line.send_raw(NONCE)
    assert not line.connection.receive_until(NONCE)
    assert line.reason
    assert not line.connection.receive_until(NONCE)


def test_another_nonce_is_a_malformed_message(line: Line) -> None:
    line.send_raw(b"m" * 32)
    assert not line.connection.receive_until(NONCE)
    assert line.reason


def test_one_that_is_closed_says_nothing_of_its_client(line: Line) -> None:
    """Whoever describes all connections finds what there always is."""
    line.connection.close()
    about = line.connection.server.about()
    assert (about["client_name"], about["client_id"]) == ("", 0)
