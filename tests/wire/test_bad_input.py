"""`docs/spec/protocol.md`, "What bad input gets", except for required fields: on every kind of channel."""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Callable
from typing import Any

import cbor2
import pytest

from .protocol import MAX_DESCRIPTORS, METHODS, SAME_RIGHTS, constraints, header
from .raw import PeerClosed, Token, Wire
from .victims import KINDS, NODES, Victim, victim

NAME = b"\x01\x61n"  # field 1, "n": the only field that SetDebugClientInfo requires
UNKNOWN = b"\x18\x63"  # field 99


def debug_info(kind: str, *, txid: int = 0, **more: Any) -> bytes:
    method = "Allocator.SetDebugClientInfo" if kind == "allocator" else "Node.SetDebugClientInfo"
    return header(txid, METHODS[method][0], **more)


BAD_HEADERS: dict[str, Callable[[str], bytes]] = {
    "bad magic": lambda kind: debug_info(kind, magic=2) + b"\xa1" + NAME,
    "no magic": lambda kind: debug_info(kind, magic=0) + b"\xa1" + NAME,
    "format revision 0": lambda kind: debug_info(kind, flags=b"\0\0\x80") + b"\xa1" + NAME,
    "format revision 3": lambda kind: debug_info(kind, flags=b"\3\0\x80") + b"\xa1" + NAME,
    "a split request": lambda kind: debug_info(kind, flags=b"\2\1\x80"),
    "a split request with a body": lambda kind: (
        debug_info(kind, flags=b"\2\1\x80") + b"\xa1" + NAME
    ),
    "flag byte 1 is 2": lambda kind: debug_info(kind, flags=b"\2\2\x80") + b"\xa1" + NAME,
    "not flexible": lambda kind: debug_info(kind, flags=b"\2\0\0") + b"\xa1" + NAME,
    "flexible and more": lambda kind: debug_info(kind, flags=b"\2\0\x81") + b"\xa1" + NAME,
    "one byte": lambda kind: b"\0",
    "fifteen bytes": lambda kind: debug_info(kind)[:15],
    "oversize datagram": lambda kind: sized(kind, 64 * 1024 + 1),
    "oversize datagram of garbage": lambda kind: bytes(100_000),
    "zero-length datagram": lambda kind: b"",
}

BAD_BODIES: dict[str, bytes] = {
    "no body": b"",
    "not CBOR": b"\xff",
    "cut off": b"\xa1\x01\x63ab",
    "reserved additional information": b"\xa1\x01\x7c",
    "reserved simple value": b"\xa2" + NAME + UNKNOWN + b"\xf8\x10",
    "an array": b"\x81\x61n",
    "null": b"\xf6",
    "trailing bytes": b"\xa1" + NAME + b"\0",
    "two items": b"\xa1" + NAME + b"\xa1" + NAME,
    "indefinite map": b"\xbf" + NAME + b"\xff",
    "indefinite string": b"\xa1\x01\x7f\x61n\xff",
    "indefinite array under an unknown field": b"\xa2" + NAME + UNKNOWN + b"\x9f\xff",
    "indefinite bytes under an unknown field": b"\xa2" + NAME + UNKNOWN + b"\x5f\x41a\xff",
    "indefinite map deep in an unknown field": b"\xa2" + NAME + UNKNOWN + b"\x81\xbf\xff",
    "non-minimal key": b"\xa1\x18\x01\x61n",
    "non-minimal integer": b"\xa2" + NAME + b"\x02\x19\x00\x07",
    "non-minimal negative integer under an unknown field": b"\xa2" + NAME + UNKNOWN + b"\x38\x01",
    "non-minimal length of a string": b"\xa1\x01\x78\x01n",
    "non-minimal length of the map": b"\xb8\x01" + NAME,
    "non-minimal integer under an unknown field": b"\xa2" + NAME + UNKNOWN + b"\x18\x17",
    "non-minimal length of bytes under an unknown field": b"\xa2" + NAME + UNKNOWN + b"\x58\x01a",
    "non-minimal length of an array under an unknown field": (
        b"\xa2" + NAME + UNKNOWN + b"\x98\x01\x01"
    ),
    "non-minimal handle tag under an unknown field": (
        b"\xa2" + NAME + UNKNOWN + b"\xda\x00\x00\x7a\x5d\x00"
    ),
    "a tag": b"\xa1\x01\xc0\x61n",
    "the self-description tag": b"\xd9\xd9\xf7\xa1" + NAME,
    "a tag under an unknown field": b"\xa2" + NAME + UNKNOWN + b"\xc1\x01",
    "a regular expression under an unknown field": b"\xa2" + NAME + UNKNOWN + b"\xd8\x23\x62a+",
    "a bignum": b"\xa2" + NAME + b"\x02\xc2\x49\x01\0\0\0\0\0\0\0\0",
    "a duplicated key": b"\xa2" + NAME + NAME,
    "a duplicated unknown key": b"\xa3" + NAME + UNKNOWN + b"\x01" + UNKNOWN + b"\x01",
    "a duplicated key under an unknown field": b"\xa2" + NAME + UNKNOWN + b"\xa2\x61a\1\x61a\2",
    "a duplicated key that is an array, under an unknown field": (
        b"\xa2" + NAME + UNKNOWN + b"\xa2\x81\x01\1\x81\x01\2"
    ),
    "field number 0": b"\xa2\x00\x01" + NAME,
    "a text key": b"\xa2\x61a\x01" + NAME,
    "a negative key": b"\xa2\x20\x01" + NAME,
    "a boolean key": b"\xa2\xf5\x01" + NAME,
    "a number for a string": b"\xa1\x01\x05",
    "bytes for a string": b"\xa1\x01\x41n",
    "null for a string": b"\xa1\x01\xf6",
    "a string for a number": b"\xa2" + NAME + b"\x02\x617",
    "a boolean for a number": b"\xa2" + NAME + b"\x02\xf5",
    "a float for a number": b"\xa2" + NAME + b"\x02\xf9\x3c\x00",
    "a negative number": b"\xa2" + NAME + b"\x02\x20",
    "null for a number": b"\xa2" + NAME + b"\x02\xf6",
    "not UTF-8": b"\xa1\x01\x62\xc3\x28",
    "a surrogate in UTF-8": b"\xa1\x01\x63\xed\xa0\x80",
    "not UTF-8 under an unknown field": b"\xa2" + NAME + UNKNOWN + b"\x61\xff",
    "a string over its bound": cbor2.dumps({1: "n" * 257}),
    "a string over its bound in bytes": cbor2.dumps({1: "é" * 129}),
    "nesting too deep": b"\xa2" + NAME + UNKNOWN + b"\x81" * 17 + b"\x01",
    "nesting much too deep": b"\xa2" + NAME + UNKNOWN + b"\x81" * 20000 + b"\x01",
    "an array longer than memory": b"\xa2" + NAME + UNKNOWN + b"\x9b" + b"\xff" * 8,
    "a string longer than memory": b"\xa1\x01\x7b\x7f" + b"\xff" * 7,
    "a map longer than memory": b"\xbb" + b"\xff" * 8,
    "a handle where none is": b"\xa2" + NAME + UNKNOWN + b"\xd9\x7a\x5d\x00",
    "a handle for a string": b"\xa1\x01\xd9\x7a\x5d\x00",
    "a handle index out of range": b"\xa2" + NAME + UNKNOWN + b"\xd9\x7a\x5d\x18\xff",
    "a handle index that is no number": b"\xa2" + NAME + UNKNOWN + b"\xd9\x7a\x5d\x610",
    "a handle index below 0": b"\xa2" + NAME + UNKNOWN + b"\xd9\x7a\x5d\x20",
    "a huge handle index": b"\xa2" + NAME + UNKNOWN + b"\xd9\x7a\x5d\x1b" + b"\xff" * 8,
}

UNKNOWN_VALUES: dict[str, bytes] = {
    "null": b"\xf6",
    "undefined": b"\xf7",
    "a simple value": b"\xf0",
    "a half float": b"\xf9\x3c\x00",
    "a float": b"\xfa\x3f\x80\x00\x01",
    "a double": b"\xfb\x3f\xf0\x00\x00\x00\x00\x00\x01",
    "not a number": b"\xf9\x7e\x00",
    "bytes": b"\x41\xff",
    "a negative number": b"\x3b" + b"\xff" * 8,
    "the largest number": b"\x1b" + b"\xff" * 8,
    "an empty array": b"\x80",
    "a map with other keys": b"\xa4\x20\x01\x61a\x02\xf6\x03\xf5\x04",
    "a map with field number 0": b"\xa1\x00\x01",
    "a map with an array for a key": b"\xa1\x81\x01\x01",
    "a map with a map for a key": b"\xa1\xa1\x01\x02\x03",
    "a map with 1 and 1.0 and true for keys": b"\xa3\x01\x01\xf9\x3c\x00\x01\xf5\x01",
    "nesting of 16": b"\x81" * 15 + b"\x01",
}


def sized(kind: str, size: int) -> bytes:
    """Return a valid message of `size` bytes, most of them in an unknown field."""
    start = debug_info(kind) + b"\xa2" + NAME + UNKNOWN
    for overhead in (3, 5):
        message = start + cbor2.dumps(bytes(size - len(start) - overhead))
        if len(message) == size:
            return message
    raise AssertionError


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", BAD_HEADERS)
def test_malformed_datagram_closes_the_channel(wire: Wire, kind: str, what: str) -> None:
    one = victim(wire, kind)
    one.channel.send_bytes(BAD_HEADERS[what](kind))
    one.assert_down()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", BAD_BODIES)
def test_malformed_body_closes_the_channel(wire: Wire, kind: str, what: str) -> None:
    one = victim(wire, kind)
    one.channel.send_bytes(debug_info(kind) + BAD_BODIES[what])
    one.assert_down()


@pytest.mark.parametrize("kind", ["allocator", *NODES])
@pytest.mark.parametrize("what", UNKNOWN_VALUES)
def test_unknown_field_with_a_well_formed_value_is_ignored(
    wire: Wire, kind: str, what: str
) -> None:
    one = victim(wire, kind)
    one.channel.send_bytes(debug_info(kind) + b"\xa2" + NAME + UNKNOWN + UNKNOWN_VALUES[what])
    one.channel.send_bytes(
        debug_info(kind) + b"\xa2" + NAME + b"\x1b" + b"\xff" * 8 + UNKNOWN_VALUES[what]
    )
    one.assert_up()


@pytest.mark.parametrize("kind", ["allocator", *NODES])
def test_a_message_of_64_kib_passes(wire: Wire, kind: str) -> None:
    one = victim(wire, kind)
    one.channel.send_bytes(sized(kind, 64 * 1024))
    one.assert_up()


@pytest.mark.parametrize("kind", ["allocator", *NODES])
def test_strings_are_bound_in_bytes_of_utf_8(wire: Wire, kind: str) -> None:
    one = victim(wire, kind)
    for name in ("n" * 256, "é" * 128, ""):
        one.channel.send_bytes(debug_info(kind) + cbor2.dumps({1: name}))
    one.assert_up()


@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("method", ["Node.Sync", "Node.Release", "Node.SetWeak"])
def test_bytes_after_the_header_of_a_payload_less_message(
    wire: Wire, kind: str, method: str
) -> None:
    one = victim(wire, kind)
    ordinal, answered = METHODS[method]
    one.channel.send_bytes(header(int(answered), ordinal) + b"\xa0")
    one.assert_down()


@pytest.mark.parametrize("kind", KINDS)
def test_shutdown_without_release_closes_the_channel(wire: Wire, kind: str) -> None:
    one = victim(wire, kind)
    one.channel.socket.shutdown(socket.SHUT_WR)
    if kind.startswith("released"):
        one.relative.sync()  # it was released, and an orphan is not a failure
    else:
        one.assert_down()


# Values of other declared types


def test_wrong_values_in_a_node_message_fail_the_node(wire: Wire) -> None:
    for method, body in {
        "Node.SetName": {1: 1 << 32, 2: "n"},
        "Node.SetDebugTimeoutLogDeadline": {1: 1 << 63},
        "Node.SetWeakOk": {1: 1},
        "BufferCollectionToken.DuplicateSync": {1: [SAME_RIGHTS] * 65},
        "BufferCollectionToken.Duplicate": {1: SAME_RIGHTS, 2: 0},
    }.items():
        one = victim(wire, "token")
        ordinal, answered = METHODS[method]
        one.channel.send_bytes(header(int(answered), ordinal) + cbor2.dumps(body))
        one.assert_down()


def test_set_name_is_bound_to_64_bytes(wire: Wire) -> None:
    one = victim(wire, "token")
    one.channel.send("Node.SetName", {1: 1, 2: "n" * 64})
    one.assert_up()
    one.channel.send("Node.SetName", {1: 1, 2: "n" * 65})
    one.assert_down()


def test_deadline_is_a_signed_number(wire: Wire) -> None:
    one = victim(wire, "token")
    for deadline in (-(1 << 63), -1, 0, (1 << 63) - 1):
        one.channel.send("Node.SetDebugTimeoutLogDeadline", {1: deadline})
    one.assert_up()
    one.channel.send_bytes(
        header(0, METHODS["Node.SetDebugTimeoutLogDeadline"][0]) + b"\xa1\x01\x3b" + b"\xff" * 8
    )
    one.assert_down()


def image(**fields: Any) -> dict[int, Any]:
    numbers = {"color_spaces": 3, "min_size": 4, "formats": 15, "list": 18, "pixel_format": 1}
    return {8: [{numbers[name]: value for name, value in fields.items()}]}


@pytest.mark.parametrize(
    "table",
    [
        {1: {2: 1 << 32}},
        {1: []},
        {1: {2: -1}},
        {2: 1 << 32},
        {2: True},
        {7: {1: 1 << 64}},
        {7: {3: 0}},
        {7: {8: [{1: "h"}] * 65}},
        {7: {8: [{1: "h" * 129}]}},
        {7: {8: {1: "h"}}},
        {7: {0: 1}},
        {8: [{}] * 65},
        {8: {}},
        image(color_spaces=[1] * 33),
        image(min_size=[1]),
        image(min_size=[1, 2, 3]),
        image(min_size={1: 1, 2: 2}),
        image(min_size=[1, 1 << 32]),
        image(min_size=[1, None]),
        image(formats=[[1, 0]] * 65),
        image(formats=[[1]]),
        image(formats=[1, 0]),
        image(list=[[1, 1]] * 65),
        image(pixel_format=1 << 32),
        image(pixel_format="NV12"),
    ],
)
def test_wrong_values_in_constraints_fail_the_node(wire: Wire, table: dict[int, Any]) -> None:
    one = victim(wire, "collection")
    body = cbor2.dumps({1: table})
    one.channel.send_bytes(header(0, METHODS["BufferCollection.SetConstraints"][0]) + body)
    one.assert_down()


def test_vectors_at_their_bound_and_unknown_enum_members_decode(wire: Wire) -> None:
    one = victim(wire, "collection")
    entry = {1: 0x12345, 2: 0x77, 3: [0x5555] * 32, 15: [[0x777, 0x777]] * 64, 18: [[1, 1]] * 64}
    one.channel.send(
        "BufferCollection.SetConstraints",
        {1: {7: {8: [{1: "h" * 128}] * 64}, 8: [entry] * 64, 99: 1.5}},
    )
    one.assert_up()


# Descriptors


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2, MAX_DESCRIPTORS])
def test_descriptors_not_referred_to_close_the_channel_and_are_closed(
    wire: Wire, kind: str, count: int
) -> None:
    one = victim(wire, kind)
    mine, theirs = wire.eventpair()
    one.channel.send_bytes(debug_info(kind) + b"\xa1" + NAME, [theirs] * count)
    theirs.close()
    one.assert_down()
    mine.wait_closed()


@pytest.mark.parametrize("kind", KINDS)
def test_one_index_used_twice_closes_the_channel(wire: Wire, kind: str) -> None:
    one = victim(wire, kind)
    mine, theirs = wire.eventpair()
    twice = b"\x82" + b"\xd9\x7a\x5d\x00" * 2
    one.channel.send_bytes(debug_info(kind) + b"\xa2" + NAME + UNKNOWN + twice, [theirs, theirs])
    theirs.close()
    one.assert_down()
    mine.wait_closed()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["bad magic", "short", "not CBOR", "unknown ordinal"])
def test_descriptors_of_a_malformed_message_are_closed(wire: Wire, kind: str, what: str) -> None:
    one = victim(wire, kind)
    mine, theirs = wire.eventpair()
    data = {
        "bad magic": debug_info(kind, magic=9),
        "short": b"abc",
        "not CBOR": debug_info(kind) + b"\xff",
        "unknown ordinal": header(0, 0x1234) + b"\xa1\x01\xd9\x7a\x5d\x00",
    }[what]
    one.channel.send_bytes(data, [theirs])
    theirs.close()
    one.assert_down()
    mine.wait_closed()


@pytest.mark.parametrize("kind", ["allocator", *NODES])
def test_descriptors_under_an_unknown_field_are_closed(wire: Wire, kind: str) -> None:
    one = victim(wire, kind)
    pairs = [wire.eventpair() for _ in range(2)]
    one.channel.send(one.debug_info, {1: "n", 99: [pairs[0][1], {5: pairs[1][1]}]})
    one.assert_up()
    for mine, _ in pairs:
        mine.wait_closed()


def test_bind_with_one_descriptor_for_both_fields(wire: Wire) -> None:
    one = victim(wire, "allocator")
    _, server = wire.pair()
    body = b"\xa2\x01\xd9\x7a\x5d\x00\x02\xd9\x7a\x5d\x00"
    ordinal = METHODS["Allocator.BindSharedCollection"][0]
    one.channel.send_bytes(header(0, ordinal) + body, [server])
    one.assert_down()


# Ordinals and transaction ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("txid", [0, 1])
def test_unknown_ordinal_closes_the_channel(wire: Wire, kind: str, txid: int) -> None:
    one = victim(wire, kind)
    one.channel.send_bytes(header(txid, 0x0123456789ABCDEF))
    one.assert_down()


FOREIGN = {
    "allocator": ("Node.Sync", "BufferCollectionToken.DuplicateSync"),
    "token": ("Allocator.ValidateBufferCollectionToken", "BufferCollection.SetConstraints"),
    "collection": ("BufferCollectionToken.SetDispensable", "BufferCollectionToken.DuplicateSync"),
    "group": ("BufferCollectionToken.Duplicate", "BufferCollection.CheckAllBuffersAllocated"),
}


@pytest.mark.parametrize(
    ("kind", "method"), [(kind, method) for kind, methods in FOREIGN.items() for method in methods]
)
def test_ordinal_of_another_protocol_is_unknown(wire: Wire, kind: str, method: str) -> None:
    one = victim(wire, kind)
    ordinal, answered = METHODS[method]
    one.channel.send_bytes(header(int(answered), ordinal))
    one.assert_down()


@pytest.mark.parametrize("kind", KINDS)
def test_one_way_method_with_a_txid_closes_the_channel(wire: Wire, kind: str) -> None:
    one = victim(wire, kind)
    one.channel.send_bytes(debug_info(kind, txid=5) + b"\xa1" + NAME)
    one.assert_down()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("txid", [0, 0x80000000, 0x80000001, 0xFFFFFFFF])
def test_two_way_method_without_a_txid_or_with_the_high_bit(
    wire: Wire, kind: str, txid: int
) -> None:
    one = victim(wire, kind)
    if kind == "allocator":
        one.channel.send("Allocator.ValidateBufferCollectionToken", {1: 0}, txid=txid)
    else:
        one.channel.send("Node.Sync", txid=txid)
    one.assert_down()


@pytest.mark.parametrize("method", ["BufferCollection.WaitForAllBuffersAllocated", "Node.Sync"])
def test_txid_in_use_closes_the_channel(wire: Wire, method: str) -> None:
    one = victim(wire, "collection")
    one.channel.send("BufferCollection.SetConstraints", {1: constraints()})
    one.channel.send("BufferCollection.WaitForAllBuffersAllocated", txid=7)
    one.channel.send(method, txid=7)
    one.assert_down()


# Unanswered calls, unread answers


def test_1024_unanswered_calls_are_allowed_and_one_more_closes_the_channel(wire: Wire) -> None:
    one = victim(wire, "collection")
    one.channel.send("BufferCollection.SetConstraints", {1: constraints()})
    for txid in range(1, 1025):
        one.channel.send("BufferCollection.WaitForAllBuffersAllocated", txid=txid)
    one.relative.sync()
    one.channel.send("BufferCollection.WaitForAllBuffersAllocated", txid=1025)
    one.assert_down()


def ask(one: Victim, txid: int) -> None:
    """Send a request that is answered at once."""
    if one.kind == "allocator":
        one.channel.send("Allocator.ValidateBufferCollectionToken", {1: 0}, txid=txid)
    else:
        one.channel.send("Node.Sync", txid=txid)


@pytest.mark.parametrize("kind", ["allocator", *NODES])
def test_1024_unread_answers_are_allowed(wire: Wire, kind: str) -> None:
    one = victim(wire, kind)
    for txid in range(1, 1025):
        ask(one, txid)
    assert sorted(one.channel.receive().txid for _ in range(1024)) == list(range(1, 1025))
    one.assert_up()


@pytest.mark.parametrize("kind", ["allocator", *NODES])
def test_a_client_that_does_not_read_is_closed_past_its_outbox_bound(wire: Wire, kind: str) -> None:
    one = victim(wire, kind)

    def never_read() -> None:
        for txid in range(1, 20000):
            ask(one, txid)

    with pytest.raises(PeerClosed):
        never_read()
    assert len(one.channel.rest()) < 1024
    if kind == "allocator":
        one.relative.sync()
    else:
        one.relative.assert_closes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_garbage_on_any_channel_changes_nothing_for_others(
    wire: Wire, kind: str, seed: int
) -> None:
    one = victim(wire, kind)
    noise = random.Random(seed).randbytes(100_000)
    with contextlib.suppress(PeerClosed):
        position = 0
        while position < len(noise):
            size = 1 + noise[position] * noise[position + 1] % 3000
            chunk = noise[position : position + size]
            head = debug_info(kind) if noise[position] & 1 else b""
            one.channel.send_bytes(head + chunk)
            position += size
    one.assert_down()


def test_garbage_in_flight_with_the_server_end(wire: Wire) -> None:
    allocator = wire.connect()
    for garbage in (b"x", bytes(100), b"\xff" * 5000):
        client, server = wire.pair()
        token = Token(wire, client)
        token.send_bytes(garbage)
        allocator.send("Allocator.AllocateSharedCollection", {1: server})
        token.assert_closes()
    allocator.sync()
