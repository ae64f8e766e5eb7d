"""The effects of a user's limits on its channels (`docs/spec/robustness.md`, "Who pays"): one test for each row.

A connection gets at most half of what the other connections of its user leave, so a single connection has half of each
limit.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from sysmem_protocol import sysmem2
from sysmem_protocol.channel import AtOnce
from sysmem_protocol.handles import Handle, eventpair
from sysmem_protocol.rendezvous import Rendezvous, RendezvousOfferRequest
from sysmem_protocol.sysmem2 import Allocator, BufferCollection, BufferCollectionToken, Error, Node
from sysmemd.quota import Exceeded, Kind

from .support import STRANGER, Bench, Client, none_left, wanting

OTHER = STRANGER + 1


@pytest.fixture
def bench() -> Iterator[Bench]:
    with closing(Bench()) as made:
        yield made
    assert list(made.service.users) == [] or all(
        user.tally[kind] == 0
        for user in made.service.users
        for kind in Kind
        if kind not in (Kind.BUFFERS, Kind.BYTES, Kind.DESCRIPTORS)  # the memory runs out
    )


def limit(bench: Bench, **limits: int) -> None:
    """Set these limits for STRANGER, and for no other user."""
    bench.service.users.limit({}, {STRANGER: {Kind(name): value for name, value in limits.items()}})


def refused(bench: Bench) -> list[dict[str, Any]]:
    """Return the log lines about refusals."""
    return [fields for _, event, fields in bench.log.entries if fields.get("limit")]


def counted(bench: Bench, kind: Kind, uid: int = STRANGER) -> int:
    return sum(user.tally[kind] for user in bench.service.users if user.uid == uid)


def assert_others_notice_nothing(bench: Bench) -> None:
    """Check that another user, and another connection of the same user, can negotiate."""
    for uid in (OTHER, STRANGER):
        client = bench.collection(bench.allocator(uid=uid))
        client.send(BufferCollection.set_constraints, wanting(camping=1))
        bench.run()
        answer = client.call(BufferCollection.wait_for_all_buffers_allocated)
        for buffer in answer.buffer_collection_info.buffers:
            buffer.vmo.close()
        client.send(Node.release)
        client.close()
        bench.run()


def test_connections(bench: Bench) -> None:
    limit(bench, connections=2)
    first, _ = bench.allocator(), bench.rendezvous()
    with pytest.raises(Exceeded):
        bench.allocator()
    bench.allocator(uid=OTHER)
    [line] = refused(bench)
    assert (line["user"], line["limit"], line["value"]) == (STRANGER, "connections", 2)
    first.close()
    bench.run()
    bench.allocator()


def test_root_is_a_user_like_any_other(bench: Bench) -> None:
    bench.service.users.limit({Kind.CONNECTIONS: 1}, {})
    bench.allocator(uid=0)
    with pytest.raises(Exceeded):
        bench.allocator(uid=0)


@pytest.mark.parametrize("what", ["collections", "nodes"])
def test_an_allocators_methods(bench: Bench, what: str) -> None:
    limit(bench, **{what: 4})
    allocator = bench.allocator("camera", 5)
    kept = [bench.token(allocator), bench.collection(allocator)]
    beyond = [bench.token(allocator), bench.collection(allocator)]
    assert all(client.is_closed() for client in beyond)
    assert [line["limit"] for line in refused(bench)] == [what, what]
    [line, _] = refused(bench)
    assert (line["user"], line["value"], line["share"]) == (STRANGER, 4, 2)
    assert (line["client_name"], line["client_id"]) == ("camera", 5)
    for client in kept:
        client.sync()
    assert_others_notice_nothing(bench)
    kept[1].send(Node.release)
    kept[1].close()
    bench.run()
    assert not bench.token(allocator).is_closed(), "the Allocator goes on"


def test_a_nodes_method(bench: Bench) -> None:
    limit(bench, nodes=6)
    allocator = bench.allocator()
    token = bench.token(allocator)
    child = bench.duplicate(token)
    apart = bench.token(allocator)
    beyond = bench.duplicate(child)
    assert all(client.is_closed() for client in (token, child, beyond)), "its tree"
    apart.sync()
    assert [line["limit"] for line in refused(bench)] == ["nodes"]
    assert bench.log.said("error") == [], "said once"
    assert counted(bench, Kind.NODES) == 1
    assert_others_notice_nothing(bench)


def test_children_are_all_or_none(bench: Bench) -> None:
    limit(bench, nodes=6)
    token = bench.token()
    bench.duplicate(token).sync()
    token.send(
        BufferCollectionToken.duplicate_sync,
        sysmem2.CreateTokensRequest(rights_attenuation_masks=[sysmem2.Rights.SAME_RIGHTS] * 2),
    )
    bench.run()
    assert token.is_closed()
    assert counted(bench, Kind.NODES) == 0


def test_a_root_that_comes_to_nothing_is_not_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocator = bench.allocator()
    monkeypatch.setattr(bench.service, "new_collection", none_left)
    assert bench.token(allocator).is_closed()
    assert counted(bench, Kind.NODES) == counted(bench, Kind.COLLECTIONS) == 0


def test_released_nodes_count_until_they_leave_the_tree(bench: Bench) -> None:
    token = bench.token()
    child = bench.duplicate(token)
    child.send(Node.release)
    child.close()
    bench.run()
    assert counted(bench, Kind.NODES) == 2
    token.close()
    bench.run()
    assert counted(bench, Kind.NODES) == 0


def test_a_turn_in_moves_a_node_and_its_children_to_come(bench: Bench) -> None:
    token = bench.token(bench.allocator(uid=OTHER))
    first = bench.duplicate(token)
    collection = bench.bind(token)
    assert (counted(bench, Kind.NODES), counted(bench, Kind.NODES, OTHER)) == (1, 1)
    assert (counted(bench, Kind.COLLECTIONS), counted(bench, Kind.COLLECTIONS, OTHER)) == (0, 1)
    bench.duplicate(first)
    bench.attach(collection).sync()
    assert (counted(bench, Kind.NODES), counted(bench, Kind.NODES, OTHER)) == (2, 2)


def test_a_turn_in(bench: Bench) -> None:
    limit(bench, nodes=2)
    allocator = bench.allocator()
    bench.token(allocator)
    others = bench.allocator(uid=OTHER)
    token = bench.token(others)
    apart = bench.token(others)
    end = bench.adopt(token.duplicate_end())
    collection = bench.bind(token, allocator)
    assert collection.is_closed()
    assert end.is_closed(), "also if somebody has kept the token"
    assert [line["user"] for line in refused(bench)] == [STRANGER]
    assert (counted(bench, Kind.NODES), counted(bench, Kind.NODES, OTHER)) == (1, 1)
    apart.sync()
    bench.collection(others).sync()


def test_a_turn_in_of_ones_own_at_the_limit_changes_nothing(bench: Bench) -> None:
    limit(bench, nodes=2)
    allocator = bench.allocator()
    collection = bench.bind(bench.token(allocator), allocator)
    collection.sync()
    assert counted(bench, Kind.NODES) == 1


@pytest.fixture
def held() -> Iterator[ExitStack]:
    """The objects that a client keeps until the end."""
    with ExitStack() as stack:
        yield stack


def attach_tracking(bench: Bench, node: Client, held: ExitStack, *, lifetime: bool) -> Handle:
    """Attach a tracking. Return the client's end of its event."""
    near, far = map(held.enter_context, eventpair())
    if lifetime:
        node.send(
            BufferCollection.attach_lifetime_tracking,
            sysmem2.BufferCollectionAttachLifetimeTrackingRequest(
                server_end=far, buffers_remaining=0
            ),
        )
    else:
        node.send(Node.attach_node_tracking, sysmem2.NodeAttachNodeTrackingRequest(server_end=far))
    bench.run()
    return near


@pytest.mark.parametrize("lifetime", [False, True])
def test_trackings(bench: Bench, held: ExitStack, lifetime: bool) -> None:
    limit(bench, trackings=4)
    allocator = bench.allocator()
    node, apart = bench.collection(allocator), bench.collection(allocator)
    for tracking in [attach_tracking(bench, node, held, lifetime=lifetime) for _ in range(2)]:
        assert counted(bench, Kind.TRACKINGS) >= 1
        tracking.close()
        bench.memory.process_events()
    assert counted(bench, Kind.TRACKINGS) == 0, "those whose client is gone aren't counted"
    for _ in range(2):
        attach_tracking(bench, apart, held, lifetime=lifetime)
    attach_tracking(bench, node, held, lifetime=lifetime)
    assert node.is_closed()
    apart.sync()
    assert [line["limit"] for line in refused(bench)] == ["trackings"]
    assert_others_notice_nothing(bench)


def test_a_tracking_that_comes_to_nothing_is_not_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, held: ExitStack
) -> None:
    token = bench.token()
    monkeypatch.setattr(AtOnce, "stop_receiving", none_left)
    attach_tracking(bench, token, held, lifetime=False)
    assert token.is_closed()
    assert counted(bench, Kind.TRACKINGS) == 0


@pytest.mark.parametrize(("what", "most"), [("buffers", 6), ("bytes", 6 * 4096)])
def test_buffers_and_bytes(bench: Bench, what: str, most: int) -> None:
    limit(bench, **{what: most})
    allocator = bench.allocator("camera", 5)
    kept = bench.allocated(allocator)  # two of three
    token = bench.token(allocator)
    last = bench.bind(bench.duplicate(token), allocator)
    beyond = bench.bind(token, allocator)
    beyond.send(BufferCollection.set_constraints, wanting())
    txid = beyond.send(BufferCollection.wait_for_all_buffers_allocated)
    bench.run()
    last.send(BufferCollection.set_constraints, wanting())
    bench.run()
    assert beyond.answer(BufferCollection.wait_for_all_buffers_allocated, txid) is Error.NO_MEMORY
    [line] = refused(bench)
    assert (line["user"], line["limit"], line["value"]) == (STRANGER, what, most)
    assert (line["client_name"], line["client_id"]) == ("camera", 5)
    kept.sync()
    assert counted(bench, Kind.BUFFERS) == 2
    assert_others_notice_nothing(bench)


def test_buffers_that_come_to_nothing_are_not_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "open", none_left)
    collection = bench.collection()
    collection.send(BufferCollection.set_constraints, wanting())
    bench.run()
    assert collection.is_closed()
    assert counted(bench, Kind.BUFFERS) == counted(bench, Kind.BYTES) == 0


def test_buffers_count_while_anybody_holds_them(bench: Bench) -> None:
    collection = bench.allocated()
    answer = collection.call(BufferCollection.wait_for_all_buffers_allocated)
    collection.send(Node.release)
    collection.close()
    bench.run()
    held = [buffer.vmo for buffer in answer.buffer_collection_info.buffers]
    for left in (2, 1, 0):
        bench.memory.process_events()
        assert counted(bench, Kind.NODES) == 0
        assert counted(bench, Kind.BUFFERS) == left
        assert counted(bench, Kind.BYTES) == left * 4096
        if held:
            held.pop().close()


def test_buffers_count_against_whoever_the_root_counts_against(bench: Bench) -> None:
    collection = bench.bind(bench.token(bench.allocator(uid=OTHER)))
    collection.send(BufferCollection.set_constraints, wanting())
    bench.run()
    assert (counted(bench, Kind.BUFFERS), counted(bench, Kind.BUFFERS, OTHER)) == (2, 0)


def test_queued_bytes(bench: Bench) -> None:
    """A response to Sync has only some bytes, and a queue of the kernel holds a few hundred."""
    limit(bench, queued_bytes=4096)
    allocator = bench.allocator()
    fullest, other, apart = (bench.token(allocator) for _ in range(3))
    *queues, _ = bench.reactor.served[-3:]
    for client, queue, most in zip((other, fullest), reversed(queues), (1, 4096), strict=True):
        numbers = iter(range(1, 2000))
        while queue.waiting_bytes < most:
            client.send(Node.sync, txid=next(numbers))
            bench.run()
    waiting = [queue.waiting_bytes for queue in queues]
    assert [queue.waiting_descriptors for queue in queues] == [0, 0]
    assert counted(bench, Kind.QUEUED_BYTES) == sum(waiting)
    for call in bench.clock.calls:
        for later in call:
            later()
    assert [line["limit"] for line in refused(bench)] == ["queued_bytes"]
    assert [queue.closed for queue in queues] == [True, False]
    assert counted(bench, Kind.QUEUED_BYTES) == waiting[1]
    assert counted(bench, Kind.NODES) == 2
    apart.sync()
    assert_others_notice_nothing(bench)


def test_a_node_ref_is_a_descriptor(bench: Bench) -> None:
    limit(bench, descriptors=4)
    token = bench.token(bench.allocator())
    assert counted(bench, Kind.DESCRIPTORS) == 2
    token.send(Node.get_node_ref)
    bench.run()
    assert token.is_closed()
    assert [line["limit"] for line in refused(bench)] == ["descriptors"]


@pytest.mark.parametrize("call", ["os.pipe2", "sysmemd.channels.node_refs._identity"])
def test_a_node_ref_that_comes_to_nothing_is_not_counted(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    token = bench.token()
    token.send(Node.get_node_ref)
    with monkeypatch.context() as patch:
        patch.setattr(call, none_left)
        bench.run()
    assert token.is_closed()
    assert counted(bench, Kind.DESCRIPTORS) == 1, "the Allocator's"


def test_a_node_has_one_ref_however_often_it_is_asked_for(bench: Bench) -> None:
    token = bench.token()
    for _ in range(3):
        token.call(Node.get_node_ref).node_ref.close()
    assert counted(bench, Kind.DESCRIPTORS) == 3
    token.close()
    bench.run()
    assert counted(bench, Kind.DESCRIPTORS) == 1, "the Allocator's"


def test_an_offer_is_a_descriptor_until_it_is_over(bench: Bench) -> None:
    token = bench.token()
    before = counted(bench, Kind.DESCRIPTORS)
    meeting = bench.rendezvous()
    meeting.send(
        Rendezvous.offer, RendezvousOfferRequest(name="camera", token=token.duplicate_end())
    )
    bench.run()
    assert counted(bench, Kind.DESCRIPTORS) == before + 2, "the connection's and the offer's"
    meeting.close()
    bench.run()
    assert counted(bench, Kind.DESCRIPTORS) == before


def test_an_offer_over_the_limit(bench: Bench) -> None:
    token, meeting = bench.token(), bench.rendezvous()
    limit(bench, descriptors=2)
    offer = RendezvousOfferRequest(name="camera", token=token.duplicate_end())
    meeting.send(Rendezvous.offer, offer)
    bench.run()
    assert meeting.is_closed()
    [line] = refused(bench)
    assert (line["user"], line["limit"], line["value"]) == (STRANGER, "descriptors", 2)
    token.sync()


def test_events_of_weak_handles_are_descriptors(bench: Bench, held: ExitStack) -> None:
    answer = bench.allocated().call(BufferCollection.wait_for_all_buffers_allocated)
    vmo, _ = [held.enter_context(b.vmo) for b in answer.buffer_collection_info.buffers]
    allocator = bench.allocator(uid=OTHER)
    bench.service.users.limit({}, {OTHER: {Kind.DESCRIPTORS: 3}})
    request = sysmem2.AllocatorGetVmoInfoRequest(vmo=vmo.duplicate(), need_weak=True)
    answer = allocator.call(Allocator.get_vmo_info, request)
    assert counted(bench, Kind.DESCRIPTORS, OTHER) == 2
    request = sysmem2.AllocatorGetVmoInfoRequest(vmo=vmo.duplicate(), need_weak=True)
    assert allocator.call(Allocator.get_vmo_info, request) is Error.UNSPECIFIED
    assert [line["limit"] for line in refused(bench)] == ["descriptors"]
    answer.close_weak_asap.close()
    bench.memory.process_events()
    assert counted(bench, Kind.DESCRIPTORS, OTHER) == 1
    answer.weak_vmo.close()


def test_weak_buffers_over_the_limit_are_no_memory(bench: Bench) -> None:
    root = bench.token(bench.allocator("camera", 5))
    child = bench.duplicate(root)
    child.send(Node.set_weak)
    collections = bench.bind(root), bench.bind(child, bench.allocator("viewer", 6, OTHER))
    for collection in collections:
        collection.send(BufferCollection.set_constraints, wanting())
    bench.run()
    bench.service.users.limit({}, {OTHER: {Kind.DESCRIPTORS: 2}})
    wait = BufferCollection.wait_for_all_buffers_allocated
    assert collections[1].call(wait) is Error.NO_MEMORY
    [line] = refused(bench)
    assert (line["user"], line["limit"], line["client_name"]) == (OTHER, "descriptors", "viewer")


def test_answers_that_are_kept_for_others(bench: Bench) -> None:
    """A client gets another response each time another client closes a strong handle.

    These responses are not counted.
    """
    root = bench.token()
    child = bench.duplicate(root)
    child.send(Node.set_weak)
    weak, strong = bench.bind(child), bench.bind(root)
    for collection in (weak, strong):
        collection.send(BufferCollection.set_constraints, wanting(camping=8))
    bench.run()
    wait = BufferCollection.wait_for_all_buffers_allocated
    buffers = strong.call(wait).buffer_collection_info.buffers
    strong.send(Node.release)
    strong.close()
    bench.run()
    [party] = bench.service.parties.values()
    most = 0
    for left in range(len(buffers), 0, -1):
        buffers[left - 1].vmo.close()
        got = weak.call(wait).buffer_collection_info.buffers
        assert sum(buffer.vmo is not None for buffer in got) == left - 1
        for handle in (one for buffer in got for one in (buffer.vmo, buffer.close_weak_asap)):
            if handle is not None:
                handle.close()
        most = max(most, len(party.answers))
    assert most == 8
