"""Which call an answer belongs to, without any I/O."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem._calls import MAX_TXID, Calls, datagram, encode_request
from sysmem_protocol.message import MalformedMessage, Message
from sysmem_protocol.sysmem2 import BufferCollection, Node, NodeSetNameRequest


def arrive(calls: Calls, message: Message) -> Any:
    """Have an answer arrive, in as many datagrams as it takes."""
    found = None
    for data, handles in message.datagrams():
        found = calls.arrived(data, handles)
    return found


def test_txids_are_positive_unique_and_used_again_at_the_end() -> None:
    calls = Calls()
    first = calls.begin(Node.sync)
    assert first.txid == 1
    calls._last_txid = MAX_TXID - 1
    assert calls.begin(Node.sync).txid == MAX_TXID
    assert calls.begin(Node.sync).txid == 2  # 1 is still outstanding
    assert arrive(calls, Message(1, Node.sync.ordinal)) is first
    calls._last_txid = MAX_TXID
    assert calls.begin(Node.sync).txid == 1


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
    assert calls.resume(wait) is None  # one who waits at a time
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
