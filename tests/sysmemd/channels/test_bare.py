"""Messages that consist only of a header are recognised by their bytes, and processed like all others."""

from __future__ import annotations

import pytest

from sysmem_protocol.library import Interface
from sysmem_protocol.message import HEADER
from sysmem_protocol.sysmem2 import BufferCollection, BufferCollectionToken, Node
from sysmemd.channels.requests import bare_methods

from .support import Bench, Client, header


@pytest.mark.parametrize("interface", [BufferCollection, BufferCollectionToken])
def test_each_method_without_a_request_is_known_by_its_header(interface: type[Interface]) -> None:
    found = bare_methods(interface)
    assert set(found.values()) == {m for m in interface.methods.values() if m.request is None}
    for rest, method in found.items():
        assert header(0, method.ordinal)[4:] == rest
    assert bare_methods(interface) is found


def raw(client: Client, data: bytes) -> None:
    assert client.channel.send(data)


def test_an_answer_with_nothing_to_say_is_the_header_of_its_call(bench: Bench) -> None:
    token = bench.token()
    raw(token, header(0x0102_0304, Node.sync.ordinal))
    bench.run()
    received = token.channel.receive()
    assert received == (header(0x0102_0304, Node.sync.ordinal), [])


@pytest.mark.parametrize(
    "data",
    [
        header(0, Node.sync.ordinal),
        header(0x8000_0001, Node.sync.ordinal),
        header(1, Node.release.ordinal),
        header(1, Node.sync.ordinal, flags=b"\x02\x01\x80"),
        header(1, Node.sync.ordinal, flags=b"\x02\x00\x00"),
        header(1, Node.sync.ordinal, magic=2),
        header(1, Node.sync.ordinal + 1),
        header(1, Node.sync.ordinal) + b"\xa0",
        header(1, Node.sync.ordinal)[:-1],
    ],
    ids=["no txid", "reserved", "one-way", "more", "flags", "magic", "ordinal", "body", "short"],
)
def test_what_is_wrong_in_it_closes_the_channel(bench: Bench, data: bytes) -> None:
    token = bench.token()
    raw(token, data)
    bench.run()
    assert token.is_closed()


def test_a_txid_in_use_closes_the_channel(bench: Bench) -> None:
    collection = bench.collection()
    wait = BufferCollection.wait_for_all_buffers_allocated
    for method in (BufferCollection.set_constraints,):
        raw(collection, header(0, method.ordinal) + b"\xa0")
    other = bench.token()
    bound = bench.bind(bench.duplicate(other))
    raw(bound, header(0, BufferCollection.set_constraints.ordinal) + b"\xa0")
    raw(bound, header(7, wait.ordinal))
    bench.run()
    raw(bound, header(7, Node.sync.ordinal))
    bench.run()
    assert bound.is_closed()


def test_answers_keep_their_order_for_who_does_not_read(bench: Bench) -> None:
    token = bench.token()
    sent = 0
    while not bench.reactor.to_flush:
        sent += 1
        raw(token, header(sent, Node.sync.ordinal))
        bench.run()
    for _ in range(3):
        sent += 1
        raw(token, header(sent, Node.sync.ordinal))
        bench.run()
    for txid in range(1, sent + 1):
        received = token.channel.receive()
        assert received is not None
        assert HEADER.unpack(received[0])[0] == txid
        bench.run()
