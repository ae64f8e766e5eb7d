"""`docs/spec/protocol.md`, "Node": the methods that tokens, collections and groups share."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from .protocol import NOT_FOUND, PROTOCOL_DEVIATION, constraints
from .raw import Allocator, Collection, Node, Refused, Token, Wire, assert_close


def node_of(kind: str, allocator: Allocator, root: Token) -> Node:
    if kind == "group":
        return root.group()
    token = root.duplicate_token()
    token.sync()
    return allocator.bind(token) if kind == "collection" else token


every_kind = pytest.mark.parametrize("kind", ["token", "collection", "group"])


def vmo_name(info_target: str) -> str:
    assert info_target.startswith("/memfd:")
    return info_target.removeprefix("/memfd:").removesuffix(" (deleted)")


# Release

MESSAGES: dict[str, Callable[[Node], object]] = {
    "Sync": lambda node: node.request("Node.Sync"),
    "Release": lambda node: node.release(),
    "SetName": lambda node: node.set_name(1, "n"),
    "SetDebugClientInfo": lambda node: node.set_debug_client_info("n", 1),
    "SetVerboseLogging": lambda node: node.send("Node.SetVerboseLogging"),
    "SetWeakOk": lambda node: node.set_weak_ok(),
    "GetNodeRef": lambda node: node.request("Node.GetNodeRef"),
}


@every_kind
@pytest.mark.parametrize("message", MESSAGES)
def test_any_message_after_release_fails_the_node(wire: Wire, kind: str, message: str) -> None:
    allocator, root = wire.root()
    node = node_of(kind, allocator, root)
    if kind == "group":
        node.send("BufferCollectionTokenGroup.CreateChild", {1: wire.pair()[1]})
        node.send("BufferCollectionTokenGroup.AllChildrenPresent")
    node.release()
    MESSAGES[message](node)
    assert_close(root, node)


@pytest.mark.parametrize("kind", ["token", "collection"])
def test_after_release_the_client_sees_the_server_end_close_and_closing_fails_nothing(
    wire: Wire, kind: str
) -> None:
    allocator, root = wire.root()
    node = node_of(kind, allocator, root)
    node.release()
    node.assert_closes()
    node.close()
    root.sync()


def test_answers_to_what_was_sent_before_release_still_arrive(wire: Wire) -> None:
    root = wire.connect().shared()
    child = root.duplicate_token()
    syncs = [child.request("Node.Sync") for _ in range(50)]
    child.release()
    assert [message.txid for message in child.rest()] == syncs
    root.sync()


def test_release_takes_effect_when_the_client_end_closes(wire: Wire) -> None:
    allocator, root, child = wire.root_and_child()
    collection = allocator.bind(root)
    collection.set_constraints(constraints())
    wait = collection.request_wait()
    child.release()
    child.assert_closes()
    collection.sync()
    assert collection.check() == 7
    child.close()
    assert len(collection.wait_answer(wait).buffers) == 1


# SetName


def named_vmos(wire: Wire, *names: tuple[int, str]) -> list[str]:
    collection = wire.connect().non_shared()
    for priority, name in names:
        collection.set_name(priority, name)
    info = collection.allocate(camping=2)
    return [vmo_name(info.vmo(index).target()) for index in range(2)]


def test_vmos_of_an_unnamed_collection_are_named_sysmem(wire: Wire) -> None:
    assert named_vmos(wire) == ["sysmem:0", "sysmem:1"]


def test_vmos_are_named_after_the_collection(wire: Wire) -> None:
    assert named_vmos(wire, (0, "frames")) == ["frames:0", "frames:1"]
    assert named_vmos(wire, (5, "é" * 32)) == ["é" * 32 + ":0", "é" * 32 + ":1"]
    long = "n" * 64
    assert named_vmos(wire, (1, long)) == [long + ":0", long + ":1"]


def test_the_larger_priority_wins_and_the_same_changes_nothing(wire: Wire) -> None:
    assert named_vmos(wire, (5, "five"), (5, "again"), (4, "four")) == ["five:0", "five:1"]
    assert named_vmos(wire, (5, "five"), (6, "six"), (5, "late"))[0] == "six:0"
    assert named_vmos(wire, (0, "first"), (0xFFFFFFFF, "last"))[0] == "last:0"


def test_a_name_is_cut_at_its_first_nul(wire: Wire) -> None:
    assert named_vmos(wire, (1, "cut\0off"))[0] == "cut:0"


def test_any_node_names_the_collection(wire: Wire) -> None:
    allocator, root = wire.root()
    root.set_name(1, "root")
    group = root.group()
    group.set_name(3, "group")
    child = group.child()
    child.set_name(2, "child")
    child.sync()
    group.all_children_present()
    one, two = allocator.bind(root), allocator.bind(child)
    one.set_constraints(constraints())
    two.set_constraints({})
    assert vmo_name(one.wait().vmo().target()) == "group:0"


def test_a_later_name_does_not_rename_vmos(wire: Wire) -> None:
    collection, _ = wire.allocated()
    collection.set_name(9, "late")
    assert vmo_name(collection.wait().vmo().target()) == "sysmem:0"


# GetNodeRef, IsAlternateFor, GetBufferCollectionId


@every_kind
def test_every_node_of_a_collection_has_its_id(wire: Wire, kind: str) -> None:
    allocator, root = wire.root()
    assert node_of(kind, allocator, root).collection_id() == root.collection_id()


def test_is_alternate_for_follows_the_nearest_common_ancestor(wire: Wire) -> None:
    _, root, group, (one, two) = wire.group_of(2)
    below = one.duplicate_token()
    one.sync()
    aside = root.duplicate_token()
    root.sync()
    refs = {
        name: node.node_ref()
        for name, node in {
            "root": root,
            "group": group,
            "one": one,
            "two": two,
            "below": below,
            "aside": aside,
        }.items()
    }
    expected = {
        (two, "one"): True,
        (one, "two"): True,
        (below, "two"): True,
        (two, "below"): True,
        (one, "below"): False,  # one is its own ancestor, and a token
        (below, "one"): False,
        (one, "one"): False,
        (one, "group"): True,  # the group is its own ancestor
        (group, "one"): True,
        (group, "group"): True,
        (root, "one"): False,
        (one, "root"): False,
        (one, "aside"): False,
        (aside, "group"): False,
    }
    for (node, ref), answer in expected.items():
        assert node.is_alternate_for(refs[ref]) is answer, (ref, answer)


def test_a_released_group_still_makes_alternates(wire: Wire) -> None:
    _, root, group, (one, two) = wire.group_of(2)
    group.all_children_present()
    group.release()
    group.assert_closes()
    group.close()
    root.sync()
    assert one.is_alternate_for(two.node_ref())


def test_a_node_ref_survives_bind_and_release(wire: Wire) -> None:
    allocator, root, _group, (one, two) = wire.group_of(2)
    ref = one.node_ref()
    collection = allocator.bind(one)
    assert two.is_alternate_for(ref)
    again = collection.node_ref()
    assert two.is_alternate_for(again)
    collection.release_and_close()
    root.sync()
    assert two.is_alternate_for(ref)


def test_a_node_ref_of_another_collection_or_of_nobody_is_not_found(wire: Wire) -> None:
    allocator = wire.connect()
    root, other = allocator.shared(), allocator.shared()
    for ref in (other.node_ref(), wire.eventfd()):
        with pytest.raises(Refused) as refused:
            root.is_alternate_for(ref)
        assert refused.value.error == NOT_FOUND
    root.sync()


def test_a_node_ref_of_a_node_that_left_the_tree_is_not_found(wire: Wire) -> None:
    allocator = wire.connect()
    collection = allocator.non_shared()
    attached = collection.attach()
    ref = attached.node_ref()
    assert collection.is_alternate_for(ref) is False
    gone = attached.track_node()
    attached.sync()
    attached.close()
    gone.wait_closed()
    with pytest.raises(Refused) as refused:
        collection.is_alternate_for(ref)
    assert refused.value.error == NOT_FOUND


def test_not_an_event_is_a_protocol_deviation_and_fails_nothing(wire: Wire) -> None:
    root = wire.connect().shared()
    for wrong in (wire.file(__file__, 0), wire.pair()[1], wire.file("/", 0)):
        with pytest.raises(Refused) as refused:
            root.is_alternate_for(wrong)
        assert refused.value.error == PROTOCOL_DEVIATION
    root.sync()


def test_a_vmo_is_no_node_ref(wire: Wire) -> None:
    collection = wire.connect().non_shared()
    vmo = collection.allocate().vmo()
    with pytest.raises(Refused) as refused:
        collection.is_alternate_for(vmo)
    assert refused.value.error in (NOT_FOUND, PROTOCOL_DEVIATION)
    collection.sync()


# AttachNodeTracking


@every_kind
def test_node_tracking_closes_when_the_node_is_gone(wire: Wire, kind: str) -> None:
    allocator, root = wire.root()
    node = node_of(kind, allocator, root)
    gone = node.track_node()
    node.sync()
    assert not gone.is_closed()
    root.close()
    gone.wait_closed()


def test_node_tracking_survives_the_conversion(wire: Wire) -> None:
    allocator, root = wire.root()
    gone = root.track_node()
    collection = allocator.bind(root)
    collection.sync()
    assert not gone.is_closed()
    collection.allocate()
    assert not gone.is_closed()
    collection.close()
    gone.wait_closed()


def test_node_tracking_waits_for_the_children_and_the_orphans_to_be_gone(wire: Wire) -> None:
    _, root, child, grandchild = wire.chain()
    gone = child.track_node()
    child.release_and_close()
    grandchild.sync()
    root.sync()
    assert not gone.is_closed()
    grandchild.close()
    gone.wait_closed()


def test_256_node_trackings_are_allowed_and_one_more_fails_the_node(wire: Wire) -> None:
    root = wire.connect().shared()
    gone = [root.track_node() for _ in range(256)]
    root.sync()
    assert not any(event.is_closed() for event in gone)
    gone.append(root.track_node())
    root.assert_closes()
    for event in gone:
        event.wait_closed()


# When SetWeak and SetWeakOk are allowed


def test_set_weak_on_a_collection_after_set_constraints_fails_it(wire: Wire) -> None:
    allocator, root, child = wire.root_and_child()
    collection = allocator.bind(child)
    collection.set_constraints(constraints())
    collection.set_weak()
    assert_close(collection, root)


def test_set_weak_on_a_group_after_all_children_present_fails_it(wire: Wire) -> None:
    _, root = wire.root()
    group = root.group()
    group.child()
    group.set_weak()
    group.set_weak()
    group.sync()
    group.all_children_present()
    group.set_weak()
    assert_close(group, root)


def test_set_weak_is_idempotent(wire: Wire) -> None:
    allocator, root = wire.root()
    child = root.duplicate_token()
    for _ in range(3):
        child.set_weak()
    child.sync()
    collection = allocator.bind(child)
    collection.set_weak()
    collection.sync()


def test_set_weak_ok_after_wait_fails_the_collection(wire: Wire) -> None:
    allocator, root, child = wire.root_and_child()
    collection = allocator.bind(child)
    collection.set_weak_ok()
    collection.set_constraints(constraints())
    collection.set_weak_ok()
    collection.sync()
    collection.request_wait()
    collection.set_weak_ok()
    assert_close(collection, root)


def test_set_weak_ok_on_a_token_and_a_group_any_time(wire: Wire) -> None:
    _, root = wire.root()
    group = root.group()
    group.child()
    group.all_children_present()
    for node in (root, group):
        node.set_weak_ok()
        node.set_weak_ok(children=False)
        node.set_weak_ok(children=True)
        node.sync()


def test_deadlines_past_and_future_are_accepted_on_every_node(wire: Wire) -> None:
    allocator = wire.connect()
    for kind in ("token", "collection", "group"):
        root = allocator.shared()
        node = node_of(kind, allocator, root)
        for deadline in (0, time.monotonic_ns() + 10**18, -(1 << 63), (1 << 63) - 1):
            node.send("Node.SetDebugTimeoutLogDeadline", {1: deadline})
        node.sync()


# Several calls at the same time


def test_a_sync_is_answered_while_a_wait_is_pending(wire: Wire) -> None:
    allocator, root, child = wire.root_and_child()
    collection: Collection = allocator.bind(root)
    collection.set_constraints(constraints())
    collection.request_wait()
    collection.sync()
    child.sync()
