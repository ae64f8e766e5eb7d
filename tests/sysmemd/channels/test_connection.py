"""The effects of bad input, messages that are held back, and the ends of channels."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import resource
import socket
from collections.abc import Callable

import pytest

from sysmem_protocol import codec, sysmem2
from sysmem_protocol.channel import Channel, PeerClosedError
from sysmem_protocol.explained import Explained, ExplainedOnExplainedEvent
from sysmem_protocol.handles import eventpair
from sysmem_protocol.library import Interface, Method
from sysmem_protocol.message import FLAGS_MORE, MAX_MESSAGE_BYTES
from sysmem_protocol.sysmem2 import (
    Allocator,
    BufferCollection,
    BufferCollectionToken,
    Error,
    Node,
)
from sysmemd.channels.deferred import Deferred
from sysmemd.channels.errors import Refused
from sysmemd.tree import Misuse

from .line import Line, Made, null
from .support import header, is_closed

_decoder = codec.Decoder()


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
    assert line.connection.receive()  # after a one-way message, another message is likely
    assert line.answers() == []
    assert not line.connection.receive()  # a client that makes a call mostly waits for its response
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
    idle: list[bool] = []
    line.connection.when_idle(lambda: idle.append(True))
    assert idle == [True]


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
    "split, with a body": (header(1, SYNC, FLAGS_MORE) + b"x", "must have descriptors and no body"),
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
    line.send(Node.sync, txid=9)  # it is not served any more
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
    assert line.connection.unanswered == 3
    line.send(BufferCollection.wait_for_all_buffers_allocated, txid=4)
    line.serve()
    assert line.reason == "more than 3 calls wait for their answer"


@pytest.mark.parametrize(
    ("method", "body", "txid"), [(Node.sync, "", 1), (Node.set_name, "a20101026161", 0)]
)
def test_no_message_is_served_when_none_may_come(
    line: Line, method: Method, body: str, txid: int
) -> None:
    line.server.silent = True
    line.send(method, bytes.fromhex(body), txid)
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


def test_get_vmo_info_that_does_not_decode_closes_the_channel(
    new_line: Callable[..., Line],
) -> None:
    line = new_line(Allocator)
    line.send(Allocator.get_vmo_info, b"\xa1\x01\x05", 1)
    line.serve()
    assert "$.vmo" in line.reason


# --- the end ----------------------------------------------------------------------------------------------------------


def test_a_client_is_gone_when_its_end_is_closed_or_the_daemon_reads_no_more(line: Line) -> None:
    line.send(Node.sync, txid=1)
    found = [(line.connection.gone, line.channel.has_hung_up)]
    line.client.close()
    found.append((line.connection.gone, line.channel.has_hung_up))
    line.connection.note_hang_up()
    found.append((line.connection.gone, line.channel.has_hung_up))
    assert found == [(False, False), (True, False), (True, True)]
    line.serve()
    assert [name for name, _ in line.server.called] == ["sync"]


def test_a_client_whose_channel_is_read_no_more_is_gone(line: Line) -> None:
    line.fill()
    line.send(Node.sync, txid=1)
    line.serve()
    line.connection.finish()
    assert not line.connection.closed
    assert line.connection.gone


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


@pytest.mark.parametrize("flushed", ["before", "afterwards"])
def test_finishing_waits_for_the_last_answer_and_receives_nothing_more(
    line: Line, flushed: str
) -> None:
    line.fill()
    line.send(Node.sync, txid=1)
    line.serve()
    if flushed == "before":
        assert not line.connection.flush()
    line.connection.finish()
    if flushed == "afterwards":
        assert not line.connection.flush()
    with pytest.raises(PeerClosedError):
        line.send(Node.sync, txid=2)
    assert not line.connection.flush()
    line.drain()
    assert line.connection.flush()
    assert line.connection.closed
    assert line.answers() == [1]


def test_finishing_ends_when_the_last_answer_can_not_be_sent(line: Line) -> None:
    call = line.defer()

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
    assert not line.connection.send_event(
        Explained.on_explained, ExplainedOnExplainedEvent(line="too late")
    )
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


@pytest.mark.parametrize("other", [b"m", b"o"])
def test_another_nonce_is_a_malformed_message(line: Line, other: bytes) -> None:
    line.send_raw(other * 32)
    assert not line.connection.receive_until(NONCE)
    assert line.reason


def test_one_that_is_closed_says_nothing_of_its_client(line: Line) -> None:
    """The code that describes all connections finds the usual fields."""
    line.connection.close()
    about = line.connection.server.about()
    assert (about["channel"], about["client_name"], about["client_id"]) == ("", "", 0)
