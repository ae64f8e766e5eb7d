"""`docs/spec/protocol.md`, "Allocator": the effect of each method, and refusals without any effect."""

from __future__ import annotations

import pytest

from .protocol import NOT_FOUND, PROTOCOL_DEVIATION, SAME_RIGHTS, constraints
from .raw import Collection, Refused, Token, Wire


def test_non_shared_collection_has_one_participant(wire: Wire) -> None:
    collection, info = wire.allocated(camping=3)
    assert len(info.buffers) == 3
    assert info.collection_id == collection.collection_id()


def test_closing_an_allocator_has_no_effect_on_nodes_made_through_it(wire: Wire) -> None:
    allocator = wire.connect()
    token = allocator.shared()
    collection = allocator.non_shared()
    allocator.close()
    token.sync()
    collection.allocate()


def test_a_node_made_through_one_allocator_is_bound_through_another(wire: Wire) -> None:
    token = wire.connect().shared()
    token.sync()
    collection = wire.connect().bind(token)
    collection.allocate()


def test_collection_ids_are_unique_and_never_0_or_1(wire: Wire) -> None:
    allocator = wire.connect()
    ids = [allocator.shared().collection_id() for _ in range(50)]
    assert len(set(ids)) == 50
    assert not {0, 1} & set(ids)


# BindSharedCollection


def test_bind_processes_everything_sent_on_the_token_first(wire: Wire) -> None:
    allocator, root = wire.root()
    root.sync()
    children = [root.duplicate_token() for _ in range(100)]
    collection = allocator.bind(root)
    collection.sync()
    for child in children:
        child.sync()
        assert allocator.validate(child.koid())


@pytest.mark.parametrize("count", [1, 700], ids=["", "more than its queue holds"])
def test_bind_answers_calls_still_unanswered_on_the_token(wire: Wire, count: int) -> None:
    allocator, root = wire.root()
    watch = root.duplicate()
    root.sync()
    syncs = [root.request("Node.Sync") for _ in range(count)]
    collection = allocator.bind(root.duplicate())
    collection.sync()
    for sync in syncs:
        assert root.answer(sync).body is None
    root.assert_closes()
    watch.wait_closed()
    collection.sync()


def test_duplicates_of_a_turned_in_token_see_peer_closed_and_fail_nothing(wire: Wire) -> None:
    allocator, root = wire.root()
    root.sync()
    kept = Token(wire, root.socket.dup())
    collection = allocator.bind(root)
    collection.sync()
    kept.assert_closes()
    kept.close()
    collection.sync()


def test_bind_of_a_token_the_server_has_not_seen_closes_the_request_and_nothing_else(
    wire: Wire,
) -> None:
    allocator = wire.connect()
    client, server = wire.pair()
    allocator.bind(Token(wire, client)).assert_closes()
    # the server end never became a token of the daemon, so its other end is closed
    assert server.is_closed()
    allocator.sync()


def test_bind_of_a_server_end_closes_the_request_and_the_end(wire: Wire) -> None:
    allocator = wire.connect()
    client, server = wire.pair()
    allocator.bind(server).assert_closes()
    Token(wire, client).assert_closes()
    allocator.sync()


def test_bind_of_a_failed_token_closes_the_request(wire: Wire) -> None:
    allocator, root, child = wire.root_and_child()
    root.close()
    child.assert_closes()
    allocator.bind(child).assert_closes()
    allocator.sync()


def test_second_bind_is_one_of_an_unknown_token(wire: Wire) -> None:
    allocator, root = wire.root()
    root.sync()
    again = root.duplicate()
    collection = allocator.bind(root)
    collection.sync()
    allocator.bind(again).assert_closes()
    collection.sync()
    allocator.sync()


def test_two_binds_of_one_token_in_a_row(wire: Wire) -> None:
    allocator, root = wire.root()
    root.sync()
    again = root.duplicate()
    first, second = allocator.bind(root), allocator.bind(again)
    second.assert_closes()
    first.sync()


def test_bind_of_a_released_token_fails_the_node(wire: Wire) -> None:
    allocator, root, child = wire.root_and_child()
    child.release()
    allocator.bind(child).assert_closes()
    root.assert_closes()
    allocator.sync()


@pytest.mark.parametrize("what", ["collection", "group"])
def test_bind_of_a_node_that_is_no_token_is_one_of_an_unknown_token(wire: Wire, what: str) -> None:
    allocator, _root, child = wire.root_and_child()
    node = allocator.bind(child) if what == "collection" else child.group()
    node.sync()
    allocator.bind(node.duplicate()).assert_closes()
    node.sync()
    allocator.sync()


def test_bind_keeps_place_mask_and_marks(wire: Wire) -> None:
    allocator, root = wire.root()
    masked = root.duplicate_token(0x4)
    masked.set_weak()
    root.sync()
    first, second = allocator.participants(root, masked)
    info = second.wait()
    assert info.vmo() is not None
    assert 3 in info.buffers[0]
    with pytest.raises(PermissionError):
        info.vmo().map()
    first.wait()


def test_bind_with_a_collection_request_whose_other_end_is_closed(wire: Wire) -> None:
    """The node became a collection whose client closed without Release, so it fails."""
    allocator, root, child = wire.root_and_child()
    client, server = wire.pair()
    client.close()
    allocator.send("Allocator.BindSharedCollection", {1: child, 2: server})
    root.assert_closes()
    allocator.sync()


def test_a_refused_method_closes_only_that_allocator(wire: Wire) -> None:
    allocator, other = wire.connect(), wire.connect()
    token = allocator.shared()
    token.sync()
    allocator.send("Allocator.AllocateSharedCollection", {})
    allocator.assert_closes()
    other.sync()
    token.sync()


# ValidateBufferCollectionToken


def test_validate_is_true_for_live_unbound_tokens_only(wire: Wire) -> None:
    allocator, root = wire.root()
    assert root.socket.getpeername() in ("", b"") or root.koid()
    root.sync()
    child = root.duplicate_token()
    group = root.group()
    root.sync()
    koids = {root.koid(), child.koid(), group.koid()}
    assert len(koids) == 3
    assert allocator.validate(root.koid())
    assert allocator.validate(child.koid())
    assert not allocator.validate(group.koid())
    assert not allocator.validate(max(koids) + 1_000_000)
    assert not allocator.validate((1 << 64) - 1)
    koid = child.koid()
    collection = allocator.bind(child)
    collection.sync()
    assert not allocator.validate(koid)
    assert not allocator.validate(collection.koid())
    koid = root.koid()
    root.close()
    collection.assert_closes()
    assert not allocator.validate(koid)


def test_validate_has_no_effect_on_the_token(wire: Wire) -> None:
    allocator, root = wire.root()
    root.sync()
    for _ in range(10):
        assert wire.connect().validate(root.koid())
    collection = allocator.bind(root)
    collection.allocate()


def test_the_koid_is_empty_before_the_creating_message_was_processed(wire: Wire) -> None:
    client, server = wire.pair()
    token = Token(wire, client)
    assert token.koid() == 0
    allocator = wire.connect()
    allocator.send("Allocator.AllocateSharedCollection", {1: server})
    token.sync()
    assert token.koid() > 0


# Server ends that were used before


def test_a_server_end_whose_other_end_is_closed_already_reads_what_was_queued(wire: Wire) -> None:
    """A token was used, released and closed before the daemon received it: it becomes an orphan at once."""
    allocator, root = wire.root()
    client, server = wire.pair()
    early = Token(wire, client)
    grandchild = early.duplicate_token()
    early.release_and_close()
    root.send("BufferCollectionToken.Duplicate", {1: SAME_RIGHTS, 2: server})
    root.sync()
    grandchild.sync()
    first = allocator.participants(root, grandchild)[0]
    assert len(first.wait().buffers) == 2


def test_a_server_end_whose_other_end_is_closed_without_release_fails_the_node(wire: Wire) -> None:
    root = wire.connect().shared()
    client, server = wire.pair()
    client.close()
    root.send("BufferCollectionToken.Duplicate", {1: SAME_RIGHTS, 2: server})
    root.assert_closes()


def test_a_server_end_that_the_daemon_received_and_closed_is_no_error(wire: Wire) -> None:
    """`docs/spec/linux.md`: the end of a failed bind reads the queued messages, then peer-closed."""
    allocator = wire.connect()
    client, server = wire.pair()
    Token(wire, client)
    kept = server.duplicate()
    allocator.send("Allocator.BindSharedCollection", {1: wire.pair()[1], 2: server})
    allocator.sync()
    # the duplicate is still a connected end: the pair can be used again
    allocator.send("Allocator.AllocateSharedCollection", {1: kept})
    Token(wire, client).sync()


def test_the_same_server_end_twice_is_refused(wire: Wire) -> None:
    """It is bound already when it arrives for the second time."""
    allocator, other = wire.connect(), wire.connect()
    client, server = wire.pair()
    again = server.duplicate()
    allocator.send("Allocator.AllocateSharedCollection", {1: server})
    token = Token(wire, client)
    token.sync()
    other.send("Allocator.AllocateSharedCollection", {1: again})
    other.assert_closes()
    token.sync()


def test_get_vmo_info_of_no_sysmem_vmo(wire: Wire) -> None:
    allocator = wire.connect()
    for vmo in (wire.memfd(), wire.file(__file__, 0)):
        with pytest.raises(Refused) as refused:
            allocator.vmo_info(vmo)
        assert refused.value.error == NOT_FOUND
    for other in (wire.eventfd(), wire.pair()[1], wire.file("/", 0)):
        with pytest.raises(Refused) as refused:
            allocator.vmo_info(other)
        assert refused.value.error == PROTOCOL_DEVIATION
    with pytest.raises(Refused) as refused:
        allocator.vmo_info(None)
    assert refused.value.error == PROTOCOL_DEVIATION


def test_collections_of_many_clients_do_not_meet(wire: Wire) -> None:
    collections: list[Collection] = []
    for size in range(1, 20):
        collection = wire.connect().non_shared()
        collection.set_constraints(constraints(camping=size, size=size))
        collections.append(collection)
    for size, collection in enumerate(collections, 1):
        info = collection.wait()
        assert (len(info.buffers), info.memory[1]) == (size, size)
