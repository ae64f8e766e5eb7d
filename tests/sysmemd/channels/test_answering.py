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
from sysmemd.in_flight import Flight
from sysmemd.quota import Exceeded, Kind
from sysmemd.users import Account

from .line import Line, Made, null
from .support import none_left


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


@pytest.mark.parametrize(
    ("method", "body"),
    [
        (Node.is_alternate_for, bytes.fromhex("a101d97a5d00")),
        (BufferCollection.check_all_buffers_allocated, b""),
    ],
    ids=str,
)
def test_an_error_is_an_answer_and_is_logged_with_its_reason(
    line: Line, method: Method, body: bytes
) -> None:
    def serve(*_: Table) -> None:
        raise Failed(Error.NOT_FOUND, "$.node_ref is nobody's")

    line.server.serve = serve
    line.send(method, body, 1, *([null()] if body else []))
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
                "method": str(method),
                "error": "NOT_FOUND",
                "reason": "$.node_ref is nobody's",
                "client_name": "camera",
                "client_id": 7,
            },
        )
    ]


@pytest.mark.parametrize(
    ("interface", "method", "error", "answered"),
    [
        (Allocator, Allocator.get_vmo_info, errno.ETOOMANYREFS, True),
        (Allocator, Allocator.get_vmo_info, errno.ENOBUFS, False),
        (Allocator, Allocator.get_vmo_info, errno.EHOSTUNREACH, False),
        (Node, Node.get_node_ref, errno.ETOOMANYREFS, False),
    ],
)
def test_an_answer_whose_descriptors_cannot_be_sent_is_an_error_where_there_is_one(
    new_line: Callable[..., Line],
    monkeypatch: pytest.MonkeyPatch,
    interface: type[Interface],
    method: Method,
    error: int,
    answered: bool,
) -> None:
    line = new_line(interface)
    send = Channel.send

    def too_many(channel: Channel, data: bytes, handles: Any = ()) -> int:
        if handles:
            raise OSError(error, "Too many references")
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
        [(event, fields)] = line.log.said("error")
        assert event == "the descriptors of a response cannot be sent"
        assert (fields["method"], fields["client_name"]) == ("Allocator.GetVmoInfo", "camera")
        assert "Too many references" in fields["reason"]
    else:
        content = (
            sysmem2.VmoInfo(weak_vmo=null())
            if interface is Allocator
            else sysmem2.NodeGetNodeRefResponse(node_ref=null())
        )
        with pytest.raises(OSError, match="Too many references"):
            line.connection.answer(method, 3, content)


def test_answers_wait_for_a_client_that_does_not_read(line: Line) -> None:
    line.fill()
    for txid in (1, 2, 3):
        line.send(Node.sync, txid=txid)
    line.serve()
    assert line.reactor.to_flush
    assert not line.connection.flush()
    assert (line.connection.queued, line.connection.unanswered) == (3, 0)
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


def test_the_reason_for_an_error_waits_and_that_for_an_end_does_not(line: Line) -> None:
    line.connection.explained = True
    line.fill()
    line.connection.explain(None, "it ends")
    assert line.connection.queued == 0
    line.connection.explain(Error.PENDING, "it waits")
    assert line.connection.queued == 1


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


@pytest.mark.parametrize("is_empty", [False, True])
def test_an_answer_to_a_server_that_closed_meanwhile_is_dropped(line: Line, is_empty: bool) -> None:
    with null() as ref:

        def serve() -> Table | None:
            line.connection.close()
            return None if is_empty else sysmem2.NodeGetNodeRefResponse(node_ref=ref)

        line.server.serve = serve
        line.send(Node.sync if is_empty else Node.get_node_ref, txid=1)
        line.serve()
        assert line.answers() == []
        assert ref.closed is not is_empty
    assert line.log.entries == []
    event = ExplainedOnExplainedEvent(line="too late", report=null())
    assert not line.connection.send_event(Explained.on_explained, event)
    assert event.report is not None
    assert event.report.closed


def test_a_report_for_who_does_not_ask_for_reasons_is_closed(line: Line) -> None:
    report = null()
    line.connection.explain(Error.NOT_FOUND, "a reason", report)
    assert report.closed
    assert line.receive() is None


def test_an_event_waits_behind_answers_or_is_dropped(line: Line) -> None:
    """Without `wait` an event is dropped if there is no room, but it never passes a message that waits."""
    event = ExplainedOnExplainedEvent(line="x")

    def send(*, wait: bool) -> tuple[bool, int]:
        sent = line.connection.send_event(Explained.on_explained, event, wait=wait)
        return sent, line.connection.queued

    assert send(wait=True) == send(wait=False) == (True, 0)
    assert line.reactor.to_flush == []
    line.fill()
    assert send(wait=False) == (False, 0)
    assert line.reactor.to_flush == []
    assert send(wait=True) == (True, 1)
    assert line.reactor.to_flush == [line.connection]
    assert send(wait=False) == (True, 2)
    assert line.connection.sent == 4


def test_a_response_waits_until_its_user_has_received_other_descriptors_and_that_is_said_once(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[dict[str, Any]] = []
    has_room = False
    monkeypatch.setattr(Flight, "may_send", lambda *_: has_room)
    monkeypatch.setattr(Account, "say_in_flight", lambda _, about: said.append(about))
    for times in (1, 2):
        has_room = False
        answer = Made(lambda: sysmem2.NodeGetNodeRefResponse(node_ref=null()))
        line.connection.answer_later(Node.get_node_ref, times, answer)
        for _ in range(2):
            assert line.connection.flush()  # `retry` of the flight requests the next one
        assert [about["client_name"] for about in said] == ["camera"] * times
        has_room = True
        assert line.connection.flush()
        assert line.answers() == [times]


@pytest.mark.parametrize("is_made", [True, False])
def test_a_finished_channel_that_cannot_be_waited_for_closes_at_once(
    line: Line, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    line.fill()
    if is_made:
        line.send(Node.sync, txid=1)
        line.serve()
        assert not line.connection.flush()
    else:
        line.defer().answer_with(Made(lambda: Error.NO_MEMORY))
    monkeypatch.setattr(Channel, "stop_receiving", none_left)
    line.connection.finish()
    assert line.connection.closed is is_made
    line.connection.flush()
    assert line.connection.closed


def test_a_client_that_closes_without_waiting_is_heard_to_the_end(line: Line) -> None:
    for _ in range(2):
        line.send(Node.sync, txid=1)
    line.send(Node.release)
    line.client.close()
    line.serve()
    assert [name for name, _ in line.server.called] == ["sync", "sync", "release"]
    assert line.server.peer_closings == 1
    assert line.server.reasons == []
    assert line.connection.closed


def test_answers_that_wait_for_a_client_that_closes_are_dropped(line: Line) -> None:
    line.fill()
    line.send(Node.sync, txid=1)
    line.serve()
    line.client.close()
    assert line.connection.flush()
    assert line.connection.queued == 0
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


@pytest.mark.parametrize("is_made", [False, True])
def test_an_answer_that_can_not_be_made_closes_the_channel(
    line: Line, monkeypatch: pytest.MonkeyPatch, is_made: bool
) -> None:
    def fail() -> None:
        raise KeyError("oh")

    answer = sysmem2.NodeGetNodeRefResponse(node_ref=null())
    if is_made:
        monkeypatch.setattr("sysmemd.channels.answering.give_way", fail)
    line.server.serve = lambda: Deferred(Made((lambda: answer) if is_made else fail))
    line.send(BufferCollection.wait_for_all_buffers_allocated, txid=6)
    line.serve()
    assert line.connection.flush()
    assert line.reason == "KeyError('oh')"
    [(event, fields)] = line.log.said("error")
    assert event == "a response cannot be sent"
    assert (fields["exc_info"], fields["client_name"]) == (True, "camera")
    with answer.node_ref or null() as handle:
        assert handle.closed is is_made
