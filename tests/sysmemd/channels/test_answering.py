"""How answers and events go out, and what becomes of those that a client does not read."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

import pytest

from sysmem_protocol import sysmem2
from sysmem_protocol.channel import Channel
from sysmem_protocol.explained import Explained, ExplainedOnExplainedEvent
from sysmem_protocol.library import Interface, Method, Table
from sysmem_protocol.sysmem2 import (
    Allocator,
    BufferCollection,
    BufferCollectionToken,
    Error,
    Node,
)
from sysmemd.channels.deferred import Deferred
from sysmemd.channels.errors import Failed
from sysmemd.quota import Exceeded, Kind

from .line import Line, Made, null


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
        line.connection.explained = True
        line.connection.answer(method, 3, sysmem2.VmoInfo(weak_vmo=null()))
        reason = line.receive()
        assert reason is not None
        assert reason.ordinal == Explained.on_explained.ordinal
        assert b"the descriptors of a response cannot be sent" in reason.body
        message = line.receive()
        assert message is not None
        assert message.body == bytes.fromhex("a10201")
    else:
        with pytest.raises(OSError, match="Too many references"):
            line.connection.answer(method, 3, sysmem2.NodeGetNodeRefResponse(node_ref=null()))


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
    call = line.defer()
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
    call = line.defer()
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


def test_all_messages_are_counted_and_the_total_outlives_the_channel(line: Line) -> None:
    line.send(Node.sync, txid=1)
    line.serve()
    line.server.serve = lambda: Deferred(Made(lambda: Error.NO_MEMORY))
    line.send(BufferCollection.wait_for_all_buffers_allocated, txid=2)
    line.serve()
    line.reactor.run()
    line.connection.send_event(Explained.on_explained, ExplainedOnExplainedEvent(line="x"))
    assert line.answers() == [1, 2, 0]
    assert (line.connection.received, line.connection.sent) == (2, 3)
    line.connection.close()
    tracer = line.connection._tracer
    assert (tracer.messages_in, tracer.messages_out) == (2, 3)


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
    assert line.connection.reading  # messages that it sent before it closed are processed
    line.serve()
    assert line.server.peer_closings == 1
    assert line.connection.closed


def test_a_former_owner_that_makes_the_buffers_tiny_harms_itself(line: Line) -> None:
    """The kernel keeps enough room for any single response."""
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


def test_an_answer_that_can_not_be_made_closes_the_channel(line: Line) -> None:
    def make() -> None:
        raise KeyError("oh")

    line.server.serve = lambda: Deferred(Made(make))
    line.send(BufferCollection.wait_for_all_buffers_allocated, txid=6)
    line.serve()
    assert line.connection.flush()
    assert line.reason == "KeyError('oh')"
    assert line.log.said("error")[0][0] == "a response cannot be sent"
