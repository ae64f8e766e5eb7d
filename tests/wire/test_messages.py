"""`docs/spec/protocol.md`, "Message": header, ordinals, answers and the examples in hexadecimal, byte for byte."""

from __future__ import annotations

import pytest

from .protocol import (
    CPU_READ_OFTEN,
    CPU_WRITE_OFTEN,
    METHODS,
    SAME_RIGHTS,
    hashed_ordinal,
    header,
    only_sizes,
)
from .raw import Collection, Token, Wire


@pytest.mark.parametrize("method", METHODS)
def test_ordinal_is_the_hash_of_protocol_and_method(method: str) -> None:
    assert METHODS[method][0] == hashed_ordinal(method)


def test_example_sync_request_and_its_response_are_the_same_bytes(wire: Wire) -> None:
    token = wire.connect().shared()
    token.send_bytes(bytes.fromhex("0100000002008001545b57cf5525ac11"))
    assert token.receive().raw == bytes.fromhex("0100000002008001545b57cf5525ac11")


def test_example_allocator_set_debug_client_info(wire: Wire) -> None:
    allocator = wire.connect()
    allocator.send_bytes(bytes.fromhex("00000000020080014d9c503f9af1686fa2016663616d6572610207"))
    allocator.sync()


def test_example_allocate_shared_collection_and_duplicate(wire: Wire) -> None:
    allocator = wire.connect()
    client, server = wire.pair()
    allocator.send_bytes(bytes.fromhex("0000000002008001c1490b1ff59fa111a101d97a5d00"), [server])
    server.close()
    token = Token(wire, client)
    token.sync()
    client, server = wire.pair()
    token.send_bytes(
        bytes.fromhex("000000000200800187b87fee928fe773a2011a8000000002d97a5d00"), [server]
    )
    server.close()
    Token(wire, client).sync()


def test_example_set_constraints(wire: Wire) -> None:
    collection = wire.connect().non_shared()
    collection.send_bytes(
        bytes.fromhex(
            "00000000020080017b1950d6190fde1fa101a401a1020a020207a1011a000100000881a3"
            "0118680381060482190100190100"
        )
    )
    info = collection.wait()
    assert len(info.buffers) == 2
    # NV12, 256 x 256: 98,304 bytes; more than the 65,536 asked for
    assert info.memory[1] == 98304
    assert info.settings[2][1] == 104
    assert info.settings[2][3] == [6]


def test_example_wait_response_with_an_error(wire: Wire) -> None:
    allocator, root = wire.root()
    child = root.duplicate_token()
    first, second = allocator.bind(root), allocator.bind(child)
    method = METHODS["BufferCollection.WaitForAllBuffersAllocated"][0]
    first.set_constraints(only_sizes(1, 10))
    first.send_bytes(header(9, method))
    first.sync()
    second.set_constraints(only_sizes(20, 30))
    assert first.answer(9).raw == bytes.fromhex("09000000020080014e40614b34002306a10206")


def test_example_is_alternate_for_response(wire: Wire) -> None:
    root = wire.connect().shared()
    group = root.group()
    one, other = group.children_sync([SAME_RIGHTS, SAME_RIGHTS])
    ref = one.node_ref()
    assert [other.is_alternate_for(ref) for _ in range(2)] == [True, True]
    client = other.call("Node.IsAlternateFor", {1: ref.duplicate()})
    assert client.txid == 3
    assert client.raw == bytes.fromhex("030000000200800125087e15008ea503a101a101f5")


def test_response_echoes_txid_and_ordinal_and_answers_may_come_out_of_order(wire: Wire) -> None:
    allocator, root = wire.root()
    child = root.duplicate_token()
    first, second = allocator.bind(root), allocator.bind(child)
    first.set_constraints({1: {2: CPU_READ_OFTEN | CPU_WRITE_OFTEN}, 2: 1, 7: {1: 1}})
    wait = first.request_wait()
    sync = first.request("Node.Sync")
    answer = first.receive()
    assert (answer.txid, answer.ordinal) == (sync, METHODS["Node.Sync"][0])
    second.set_constraints({})
    answer = first.receive()
    method = METHODS["BufferCollection.WaitForAllBuffersAllocated"][0]
    assert (answer.txid, answer.ordinal) == (wait, method)


def test_txids_are_whatever_the_caller_likes_below_the_high_bit(wire: Wire) -> None:
    token = wire.connect().shared()
    for txid in (0x7FFFFFFF, 1, 0x7FFFFFFF, 0x01020304):
        token.send("Node.Sync", txid=txid)
        assert token.receive().txid == txid


def test_payload_less_response_has_an_empty_body_and_an_empty_success_a_table(wire: Wire) -> None:
    collection = wire.connect().non_shared()
    assert len(collection.call("Node.Sync").raw) == 16
    collection.set_constraints({1: {2: 1}, 2: 1, 7: {1: 1}})
    answer = collection.call("BufferCollection.CheckAllBuffersAllocated")
    assert answer.raw[16:] == b"\xa1\x01\xa0"


def test_service_socket_is_named_in_full(wire: Wire) -> None:
    assert wire.path.name == "fuchsia.sysmem2.Allocator"
    assert wire.path.is_socket()


def test_client_end_may_be_used_before_the_request_that_carries_the_server_end(wire: Wire) -> None:
    allocator = wire.connect()
    client, server = wire.pair()
    token = Token(wire, client)
    sync = token.request("Node.Sync")
    allocator.send("Allocator.AllocateSharedCollection", {1: server})
    assert token.answer(sync).body is None


def test_everything_pipelined_before_anything_was_processed(wire: Wire) -> None:
    allocator = wire.connect()
    token_client, token_server = wire.pair()
    client, server = wire.pair()
    collection = Collection(wire, client)
    collection.set_constraints({1: {2: 1}, 2: 3, 7: {1: 100}})
    wait = collection.request_wait()
    allocator.send("Allocator.AllocateSharedCollection", {1: token_server})
    allocator.send("Allocator.BindSharedCollection", {1: token_client, 2: server})
    assert len(collection.wait_answer(wait).buffers) == 3
