"""How responses are matched to calls, without any I/O."""

from __future__ import annotations

import itertools
import os
from typing import Any

import pytest

from sysmem._calls import MAX_TXID, Calls, datagram, encode_request, unanswered
from sysmem_protocol.channel import DescriptorsLost, PeerClosedError
from sysmem_protocol.codec import encode
from sysmem_protocol.explained import Explained, ExplainedOnExplainedEvent
from sysmem_protocol.handles import Handle
from sysmem_protocol.message import MAX_HANDLES, MalformedMessage, Message
from sysmem_protocol.sysmem2 import BufferCollection, Node, NodeSetNameRequest


def arrive(calls: Calls, message: Message) -> Any:
    """Deliver a response, in as many datagrams as it needs."""
    found = None
    for data, handles in message.datagrams():
        found = calls.arrived(data, handles)
    return found


def test_txids_are_positive_unique_and_used_again_at_the_end() -> None:
    calls = Calls()
    first = calls.begin(Node.sync)
    assert first.txid == 1
    calls._txids = itertools.count(MAX_TXID - 1)
    assert calls.begin(Node.sync).txid == MAX_TXID
    assert calls.begin(Node.sync).txid == 2  # 1 is still outstanding
    assert arrive(calls, Message(1, Node.sync.ordinal)) is first
    calls._txids = itertools.count(MAX_TXID)
    assert calls.begin(Node.sync).txid == 1


def test_a_late_allocation_s_error_names_the_command_that_shows_what_is_missing() -> None:
    assert str(unanswered(Node.sync)) == "sync() was not answered in time"
    late = unanswered(BufferCollection.wait_for_all_buffers_allocated)
    assert "`sysmemctl why` shows which participants" in str(late)


def test_an_answer_with_another_ordinal_is_none() -> None:
    calls = Calls()
    call = calls.begin(Node.sync)
    with pytest.raises(MalformedMessage):
        arrive(calls, Message(call.txid, Node.get_node_ref.ordinal))


def test_a_second_answer_is_none() -> None:
    calls = Calls()
    call = calls.begin(Node.sync)
    arrive(calls, Message(call.txid, Node.sync.ordinal))
    with pytest.raises(MalformedMessage):
        arrive(calls, Message(call.txid, Node.sync.ordinal))


def test_a_forgotten_call_has_no_answer() -> None:
    calls = Calls()
    call = calls.begin(Node.sync)
    calls.forget(call)
    with pytest.raises(MalformedMessage):
        arrive(calls, Message(call.txid, Node.sync.ordinal))


def test_an_abandoned_call_closes_what_it_had_and_what_comes(make_witness: Any) -> None:
    calls = Calls()
    early, late = make_witness(), make_witness()
    answered, waiting = calls.begin(Node.get_node_ref), calls.begin(Node.get_node_ref)
    ordinal = Node.get_node_ref.ordinal
    assert arrive(calls, Message(answered.txid, ordinal, b"", [early.handle])) is answered
    calls.abandon(answered)
    calls.abandon(waiting)
    assert early.handle.closed
    assert arrive(calls, Message(waiting.txid, ordinal, b"", [late.handle])) is None
    assert late.handle.closed


class Arriving:
    """A channel that receives messages."""

    kept = False

    def __init__(self, *came: Any) -> None:
        self._came = list(came)

    def receive(self, *, wait: bool = False) -> Any:
        came = self._came.pop(0)
        if isinstance(came, Exception):
            raise came
        return came


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def test_an_interrupted_part_fails_its_call_and_what_follows_is_closed(
    make_witness: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = Calls()
    call = calls.begin(BufferCollection.wait_for_all_buffers_allocated)
    witnesses = [make_witness() for _ in range(3 * MAX_HANDLES)]
    message = Message(call.txid, call.method.ordinal, b"", [each.handle for each in witnesses])
    channel: Any = Arriving(*message.datagrams())
    assert calls.take_in(channel) is True
    with monkeypatch.context() as patch:
        patch.setattr(Calls, "arrived", interrupt)
        with pytest.raises(KeyboardInterrupt):
            calls.take_in(channel)
    assert isinstance(call.error, InterruptedError)
    assert calls.take_in(channel) is True  # the last part of that response
    assert not calls.outstanding
    assert all(each.handle.closed for each in witnesses)


def test_an_interrupt_while_descriptors_are_lost_fails_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = Calls()
    call = calls.begin(Node.get_node_ref)
    monkeypatch.setattr(Calls, "lost", interrupt)
    [(data, _)] = Message(call.txid, call.method.ordinal).datagrams()
    channel: Any = Arriving(DescriptorsLost(data))
    with pytest.raises(KeyboardInterrupt):
        calls.take_in(channel)
    assert isinstance(call.error, InterruptedError)


def test_a_required_field_is_asked_for_by_its_name() -> None:
    with pytest.raises(TypeError, match=r"set_name\(\) needs a value for priority"):
        encode_request(Node.set_name, NodeSetNameRequest(name="x"))
    assert encode_request(Node.sync, None) == (b"", [])
    assert datagram(Node.sync, b"", 1).hex() == "0100000002008001545b57cf5525ac11"


def test_a_wait_put_off_is_taken_up_again_and_keeps_its_answer() -> None:
    calls = Calls()
    wait = BufferCollection.wait_for_all_buffers_allocated
    assert calls.resume(wait) is None
    call = calls.begin(wait)
    calls.put_off(call)
    assert calls.resume(Node.sync) is None
    assert calls.resume(wait) is call
    assert calls.resume(wait) is None  # one waiting thread at a time
    assert calls.arrived(datagram(wait, b"\xa1\x02\x06", call.txid), []) is call
    assert call.result().body == b"\xa1\x02\x06"


def test_a_wait_whose_answer_came_meanwhile_is_not_taken_up() -> None:
    calls = Calls()
    wait = BufferCollection.wait_for_all_buffers_allocated
    call = calls.begin(wait)
    calls.put_off(call)
    assert calls.arrived(datagram(wait, b"\xa1\x02\x06", call.txid), []) is None
    assert calls.resume(wait) is None


def test_other_calls_are_never_put_off() -> None:
    calls = Calls()
    call = calls.begin(BufferCollection.check_all_buffers_allocated)
    calls.put_off(call)
    assert calls.resume(call.method) is None


def told(line: str, report: bytes | None = None) -> Message:
    """Return an event that gives a reason."""
    vmo = None
    if report is not None:
        fd = os.memfd_create("report", os.MFD_CLOEXEC)
        os.write(fd, report)
        vmo = Handle(fd)
    body, handles = encode(ExplainedOnExplainedEvent(line=line, report=vmo))
    return Message(0, Explained.on_explained.ordinal, body, handles)


def test_a_reason_belongs_to_the_answer_that_follows_it() -> None:
    calls = Calls()
    one, two = calls.begin(Node.sync), calls.begin(Node.sync)
    assert arrive(calls, told("because", b"all of it")) is None
    arrive(calls, Message(one.txid, Node.sync.ordinal))
    arrive(calls, Message(two.txid, Node.sync.ordinal))
    assert one.result().told == ("because", "all of it")
    assert two.result().told == (None, None)
    assert calls.reason == "because"


def test_a_reason_that_no_answer_follows_is_that_of_the_end() -> None:
    calls = Calls()
    arrive(calls, told("pending"))
    arrive(calls, Message(calls.begin(Node.sync).txid, Node.sync.ordinal))
    ended = calls.ended(PeerClosedError())
    assert (ended.reason, calls.reason) == (None, None)
    arrive(calls, told("because"))
    ended = calls.ended(PeerClosedError())
    assert str(ended) == "the peer closed the channel: because"
    assert (ended.again().reason, calls.reason) == ("because", "because")


def test_a_report_is_sent_once_for_the_same_reason() -> None:
    calls = Calls()
    arrive(calls, told("because", b"all of it"))
    arrive(calls, Message(calls.begin(Node.sync).txid, Node.sync.ordinal))
    arrive(calls, told("because"))
    assert calls.ended(PeerClosedError()).report == "all of it"
    arrive(calls, told("for another reason"))
    assert calls.ended(PeerClosedError()).report is None


def test_what_became_of_the_token_is_added() -> None:
    calls = Calls()
    calls.origin = "it was left alone"
    arrive(calls, told("the token is unknown"))
    assert calls.reason == "the token is unknown; what became of the token: it was left alone"


def test_an_event_that_cannot_be_read_and_one_of_a_later_version_are_passed_over(
    make_witness: Any,
) -> None:
    calls = Calls()
    early, late = make_witness(), make_witness()
    body, _ = encode(ExplainedOnExplainedEvent(line="because"))
    arrive(calls, Message(0, Explained.on_explained.ordinal, body, [early.handle]))
    arrive(calls, Message(0, 4711, body, [late.handle]))
    assert calls.reason is None
    assert early.handle.closed
    assert late.handle.closed


def test_a_report_that_cannot_be_read_is_none() -> None:
    calls = Calls()
    fd = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
    body, handles = encode(ExplainedOnExplainedEvent(line="because", report=Handle(fd)))
    arrive(calls, Message(0, Explained.on_explained.ordinal, body, handles))
    assert calls.ended(PeerClosedError()).report is None
