"""`docs/spec/allocation.md`, "Strong and weak": what keeps buffers alive, and who is told when nothing does."""

from __future__ import annotations

import os
from typing import Any

import pytest

from .process import Daemon
from .protocol import NO_MORE_STRONG_VMO_HANDLES, PENDING, READ, constraints
from .raw import Allocator, Info, Refused, Wire, assert_close


def test_close_weak_asap_is_set_for_weak_nodes_only(wire: Wire) -> None:
    _, strong, weak = wire.strong_and_weak()
    assert [set(buffer) for buffer in strong.wait().buffers] == [{1, 2}] * 2
    info = weak.wait()
    assert [set(buffer) for buffer in info.buffers] == [{1, 2, 3}] * 2
    assert not info.close_weak_asap(0).is_closed()


def test_when_the_last_strong_handle_is_gone_close_weak_asap_closes(wire: Wire) -> None:
    _, strong, weak = wire.strong_and_weak()
    mine, theirs = strong.wait(), weak.wait()
    mapping = mine.vmo(1).map()
    strong.release_and_close()
    weak.sync()
    assert not theirs.close_weak_asap(0).is_closed()
    mine.vmo(0).close()
    theirs.close_weak_asap(0).wait_closed()
    mine.vmo(1).close()
    weak.sync()
    assert not theirs.close_weak_asap(1).is_closed()
    mapping.close()
    theirs.close_weak_asap(1).wait_closed()
    weak.assert_closes()
    theirs.close()


def test_a_strong_node_keeps_every_buffer_alive_without_handles(wire: Wire) -> None:
    _, strong, weak = wire.strong_and_weak()
    theirs = weak.wait()
    strong.wait().close()
    weak.sync()
    assert not theirs.close_weak_asap(0).is_closed()
    strong.sync()


def test_a_failed_root_drops_the_servers_handles(wire: Wire) -> None:
    _, strong, weak = wire.strong_and_weak()
    theirs = weak.wait()
    strong.close()
    weak.assert_closes()
    for index in range(2):
        theirs.close_weak_asap(index).wait_closed()


def test_a_failed_root_whose_clients_hold_strong_handles(wire: Wire) -> None:
    _, strong, weak = wire.strong_and_weak()
    mine, theirs = strong.wait(), weak.wait()
    weak.close()
    strong.assert_closes()
    assert not theirs.close_weak_asap(0).is_closed()
    mine.close()
    theirs.close_weak_asap(0).wait_closed()


def test_before_allocation_a_tree_without_strong_nodes_fails_at_once(wire: Wire) -> None:
    _, root = wire.root()
    child = root.duplicate_token()
    child.set_weak()
    child.sync()
    root.set_weak()
    assert_close(root, child)


def test_an_orphan_is_not_strong(wire: Wire) -> None:
    allocator, root, child = wire.root_and_child(weak=True)
    strong = allocator.bind(root)
    strong.set_constraints(constraints())
    strong.sync()
    strong.release()
    strong.assert_closes()
    child.sync()
    strong.close()
    child.assert_closes()


def test_weakness_is_inherited_at_creation_only(wire: Wire) -> None:
    allocator, root, middle, before = wire.chain()
    middle.set_weak()
    after = middle.duplicate_token()
    middle.sync()
    top, one, other = (allocator.bind(token) for token in (root, before, after))
    mid = allocator.bind(middle)
    other.set_weak_ok()
    for collection in (top, one, other, mid):
        collection.set_constraints(constraints())
    assert 3 not in one.wait().buffers[0]
    assert 3 in other.wait().buffers[0]
    assert 3 in mid.wait().buffers[0]
    assert 3 not in top.wait().buffers[0]


def test_wait_on_a_weak_collection_without_set_weak_ok_fails_it(wire: Wire) -> None:
    allocator, root = wire.root()
    middle = root.duplicate_token()
    middle.set_weak()
    below = middle.duplicate_token()
    middle.sync()
    weak = allocator.bind(below)
    weak.set_constraints(constraints())
    assert weak.check() == PENDING
    weak.request_wait()
    assert_close(weak, root)


def test_set_weak_ok_for_child_nodes_covers_those_created_after_it(wire: Wire) -> None:
    allocator, root = wire.root()
    middle = root.duplicate_token()
    middle.set_weak()
    early = middle.duplicate_token()
    early.set_dispensable()
    middle.set_weak_ok(children=True)
    middle.set_weak_ok(children=False)
    late = middle.duplicate_token()
    middle.sync()
    below = late.duplicate_token()
    late.sync()
    ends = allocator.participants(root, middle, late, below, early)
    for collection in ends[:4]:
        assert len(collection.wait().buffers) == 5
    ends[4].request_wait()
    ends[4].assert_closes()
    for collection in ends[:4]:
        collection.sync()


def test_weak_ok_of_an_ancestor_reaches_through_groups_and_attach(wire: Wire) -> None:
    allocator, root = wire.root()
    middle = root.duplicate_token()
    middle.set_weak()
    middle.set_weak_ok(children=True)
    group = middle.group()
    child = group.child()
    group.all_children_present()
    child.sync()
    middle.sync()
    weak = allocator.participants(root, middle, child)[-1]
    assert 3 in weak.wait().buffers[0]


def test_attach_token_on_a_weak_collection_fails_the_node(wire: Wire) -> None:
    _, strong, weak = wire.strong_and_weak()
    weak.wait()
    weak.attach()
    assert_close(weak, strong)


def test_a_weak_participant_without_usage_gets_the_event_without_the_vmo(wire: Wire) -> None:
    allocator, root, child = wire.root_and_child(weak=True)
    strong, weak = allocator.bind(root), allocator.bind(child)
    strong.set_constraints(constraints())
    weak.set_constraints({})
    info = weak.wait()
    assert set(info.buffers[0]) == {2, 3}
    strong.close()
    weak.assert_closes()
    info.close_weak_asap().wait_closed()


def test_a_weak_participant_that_asks_later_gets_an_entry_for_each_buffer(wire: Wire) -> None:
    _, strong, weak = wire.strong_and_weak(camping=3)
    mine, theirs = strong.wait(), weak.wait()
    gone = [strong.track_lifetime(left) for left in range(3)]
    strong.release_and_close()
    # buffer 0: a weak handle only; buffer 1: gone; buffer 2: strong
    mine.vmo(0).close()
    theirs.close_weak_asap(0).wait_closed()
    mine.vmo(1).close()
    theirs.close_weak_asap(1).wait_closed()
    theirs.vmo(1).close()
    gone[2].wait_closed()
    later = weak.wait()
    assert [set(buffer) for buffer in later.buffers] == [{2, 3}, {2}, {1, 2, 3}]
    assert later.close_weak_asap(0).is_closed()
    assert not later.close_weak_asap(2).is_closed()


def test_weak_handles_keep_memory_until_they_are_closed(wire: Wire) -> None:
    allocator, strong, weak = wire.strong_and_weak(camping=1)
    mine, theirs = strong.wait(), weak.wait()
    gone = weak.track_lifetime(0)
    weak.sync()
    with mine.vmo().map() as writing:
        writing[:4] = b"kept"
    strong.close()
    weak.assert_closes()
    mapping = theirs.vmo().map()
    assert mapping[:4] == b"kept"
    mine.close()
    theirs.close()
    allocator.sync()
    assert not gone.is_closed()
    mapping.close()
    gone.wait_closed()


def test_128_weak_buffers_are_answered_in_two_datagrams(wire: Wire) -> None:
    _, strong, weak = wire.strong_and_weak(camping=128)
    info = weak.wait()
    assert len(info.message.descriptors) == 256
    assert info.message.parts == 2
    assert [set(buffer) for buffer in info.buffers] == [{1, 2, 3}] * 128
    inodes = [os.fstat(info.vmo(n).fileno()).st_ino for n in range(128)]
    same = strong.wait()
    assert inodes == [os.fstat(same.vmo(n).fileno()).st_ino for n in range(128)]
    assert len(set(inodes)) == 128
    allocator = wire.connect()
    for index in (0, 64, 127):
        assert allocator.vmo_info(info.vmo(index))[2] == index
    weak.sync()


def test_the_parts_of_an_answer_have_nothing_of_the_channel_between_them(wire: Wire) -> None:
    _, _strong, weak = wire.strong_and_weak(camping=128)
    calls = []
    for _ in range(3):
        calls.append(weak.request_wait())
        calls.append(weak.request("Node.Sync"))
    received = [weak.receive() for _ in calls]  # `receive` expects consecutive parts
    assert sorted(message.txid for message in received) == calls
    assert sorted(message.parts for message in received) == [1, 1, 1, 2, 2, 2]


def test_weak_handles_left_open_are_logged_loudly(wire: Wire, daemon: Daemon) -> None:
    _, strong, weak = wire.strong_and_weak(camping=1)
    weak.set_debug_client_info("hoarder", 4711)
    strong.set_name(1, "hoarded")
    weak.sync()
    theirs = weak.wait()
    strong.close()
    theirs.close_weak_asap().wait_closed()
    event = daemon.wait_log(
        lambda event: event["level"] in ("warning", "error") and "hoarder" in str(event.values())
    )
    text = str(event)
    assert "4711" in text
    assert str(theirs.collection_id) in text


def test_a_strong_child_of_a_released_strong_node_is_strong(wire: Wire) -> None:
    allocator, root, child = wire.root_and_child()
    root.release_and_close()
    collection = allocator.bind(child)
    info = collection.allocate()
    assert set(info.buffers[0]) == {1, 2}
    info.close()
    collection.sync()


# The daemon knows that the handles of a weak participant are weak


def weak_info(allocator: Allocator, info: Info, **more: object) -> dict[int, Any]:
    result = allocator.vmo_info(info.vmo(), **more)
    assert isinstance(result, dict)
    return result


def test_get_vmo_info_tells_weak_handles_from_strong_ones(wire: Wire) -> None:
    allocator, strong, weak = wire.strong_and_weak(camping=1)
    mine, theirs = strong.wait(), weak.wait()
    assert set(weak_info(allocator, mine)) == {1, 2}
    assert set(weak_info(allocator, theirs)) == {1, 2, 3}


def test_need_weak_of_a_strong_handle(wire: Wire) -> None:
    allocator, strong, weak = wire.strong_and_weak(camping=1)
    mine = strong.wait()
    answer = weak_info(allocator, mine, need_weak=True)
    assert set(answer) == {1, 2, 3, 4}
    weak_vmo, event = answer[4], answer[3]
    assert set(allocator.vmo_info(weak_vmo)) == {1, 2, 3}
    strong.close()
    weak.assert_closes()
    assert not event.is_closed()
    mine.close()
    event.wait_closed()


def test_need_weak_with_no_strong_handle_left(wire: Wire) -> None:
    allocator, strong, weak = wire.strong_and_weak(camping=1)
    theirs = weak.wait()
    strong.close()
    theirs.close_weak_asap().wait_closed()
    with pytest.raises(Refused) as refused:
        allocator.vmo_info(theirs.vmo(), need_weak=True)
    assert refused.value.error == NO_MORE_STRONG_VMO_HANDLES
    answer = weak_info(allocator, theirs)
    assert set(answer) == {1, 2, 3}
    assert answer[3].is_closed()


def test_weak_vmo_has_no_more_rights_than_the_handle_passed_in(wire: Wire) -> None:
    allocator, root = wire.root()
    reader = root.duplicate_token(READ)
    root.sync()
    one, other = allocator.participants(root, reader)
    writer_vmo, reader_vmo = one.wait().vmo(), other.wait().vmo()
    allocator.vmo_info(writer_vmo, need_weak=True)[4].map()
    with pytest.raises(PermissionError):
        allocator.vmo_info(reader_vmo, need_weak=True)[4].map()


def test_a_weak_child_of_a_group_and_an_unselected_strong_one(wire: Wire) -> None:
    """Strong nodes below a hidden child are gone with the selection. The others stay unchanged."""
    allocator, root, group, (one, two) = wire.group_of(2)
    one.set_weak()
    one.sync()
    group.all_children_present()
    top, first, second = allocator.participants(root, one, two)
    assert 3 in first.wait().buffers[0]
    second.assert_closes()
    top.sync()
