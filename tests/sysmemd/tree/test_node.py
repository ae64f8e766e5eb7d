"""The messages of nodes, and their effects; `docs/spec/protocol.md`, "Node" and the interfaces that compose it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferUsage,
    CpuUsage,
    Error,
    NoneUsage,
    Rights,
)
from sysmemd.constraints import NO_HANDLES, Access
from sysmemd.ports import ClientInfo
from sysmemd.tree import (
    MAX_NODE_TRACKINGS,
    Allocated,
    Isolation,
    Misuse,
    Node,
    NodeKind,
    NotInCollection,
    state,
)

from .world import SAME_RIGHTS, SETTINGS, Channel, Event, World, wanting


@pytest.fixture
def world() -> World:
    return World()


def allocated(node: Node) -> Allocated:
    assert isinstance(node.outcome, Allocated)
    return node.outcome


def is_closed(event: Event) -> bool:
    return event.closed


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (state.Event.MESSAGE, lambda node: node.set_name(1, "late")),
        (state.Event.MESSAGE, lambda node: node.set_debug_client_info(ClientInfo("late"))),
        (state.Event.MESSAGE, lambda node: node.set_debug_timeout_log_deadline(1)),
        (state.Event.MESSAGE, lambda node: node.set_verbose_logging()),
        (state.Event.MESSAGE, lambda node: node.is_alternate_for(node)),
        (state.Event.MESSAGE, lambda node: node.attach_node_tracking(Event())),
        (state.Event.RELEASE, lambda node: node.release()),
        (state.Event.SET_WEAK, lambda node: node.set_weak()),
        (state.Event.SET_WEAK_OK, lambda node: node.set_weak_ok()),
        (state.Event.CREATE_TOKEN, lambda node: node.duplicate(Channel(), SAME_RIGHTS)),
        (state.Event.CREATE_TOKEN, lambda node: node.duplicate_sync([], [])),
        (state.Event.CREATE_GROUP, lambda node: node.create_group(Channel())),
        (state.Event.SET_DISPENSABLE, lambda node: node.set_dispensable()),
        (state.Event.BIND, lambda node: node.bind(Channel(), None)),
        (state.Event.SET_CONSTRAINTS, lambda node: node.set_constraints(None, None)),
        (state.Event.WAIT, lambda node: node.wait_for_all_buffers_allocated()),
        (state.Event.CHECK, lambda node: node.check_all_buffers_allocated()),
        (state.Event.ATTACH_TOKEN, lambda node: node.attach_token(Channel(), SAME_RIGHTS)),
        (
            state.Event.ATTACH_LIFETIME_TRACKING,
            lambda node: node.attach_lifetime_tracking(Event(), 0),
        ),
        (state.Event.CREATE_CHILD, lambda node: node.create_child(Channel(), SAME_RIGHTS)),
        (state.Event.CREATE_CHILD, lambda node: node.create_children_sync([], [])),
        (state.Event.ALL_CHILDREN_PRESENT, lambda node: node.all_children_present()),
    ],
)
def test_a_message_is_refused_where_the_table_of_states_refuses_it(
    world: World, event: state.Event, message: Callable[[Node], object]
) -> None:
    world.root.release()
    with pytest.raises(Misuse, match=f"^{event.value} on a released token$"):
        message(world.root)


# --- SetName ---


def test_the_first_name_is_kept_whatever_its_priority(world: World) -> None:
    world.root.set_name(0, "first")
    assert world.collection.name == "first"


def test_a_name_needs_a_greater_priority_than_every_earlier_one(world: World) -> None:
    child = world.token(world.root)
    world.root.set_name(5, "five")
    child.set_name(5, "five again")
    world.root.set_name(4, "four")
    assert world.collection.name == "five"
    child.set_name(6, "six")
    assert world.collection.name == "six"


def test_a_name_is_cut_at_its_first_nul(world: World) -> None:
    world.root.set_name(1, "camera\0preview\0")
    assert world.collection.name == "camera"


def test_the_name_goes_to_the_buffers_allocated_afterwards(world: World) -> None:
    world.root.set_name(1, "camera")
    world.ready(world.root)
    assert world.memory.requests == [
        {"collection_id": 7, "name": "camera", "settings": SETTINGS, "count": 1}
    ]


# --- SetDebugClientInfo ---


def test_a_new_debug_name_keeps_the_old_one_visible(world: World) -> None:
    world.root.set_debug_client_info(ClientInfo("camera", 9))
    assert world.root.client == ClientInfo("camera (was initiator)", 9)


def test_a_node_without_a_name_just_gets_one(world: World) -> None:
    world.root.client = ClientInfo()
    world.root.set_debug_client_info(ClientInfo("camera", 9))
    assert world.root.client == ClientInfo("camera", 9)


def test_at_most_4_kib_of_debug_name_are_kept(world: World) -> None:
    for _ in range(30):
        world.root.set_debug_client_info(ClientInfo("é" * 128))
    assert len(world.root.client.name.encode()) <= 4096
    assert len(world.root.client.name.encode()) > 4090


def test_children_made_later_inherit_debug_info(world: World) -> None:
    before = world.token(world.root)
    world.root.set_debug_client_info(ClientInfo("camera", 9))
    after = world.group(world.root)
    assert before.client == ClientInfo("initiator", 1)
    assert after.client == world.root.client


def test_refusals_name_the_client_as_it_is_called_now(world: World) -> None:
    world.ready(world.root)
    attached = world.attach(world.root)
    world.root.set_debug_client_info(ClientInfo("renamed"))
    world.ready(attached, constraints=wanting(0))
    assert world.engine.calls[-1][0].name == "renamed (was initiator)"


# --- SetWeak and SetWeakOk ---


def test_set_weak_is_idempotent_and_children_made_later_inherit_it(world: World) -> None:
    keeper = world.token(world.root)
    before = world.token(world.root)
    world.root.set_weak()
    world.root.set_weak()
    after = world.token(world.root)
    assert [node.is_weak for node in (world.root, before, after)] == [True, False, True]
    assert world.is_open(keeper)


def test_set_weak_is_set_weak_ok_for_that_node_alone(world: World) -> None:
    world.token(world.root)
    world.root.set_weak()
    child = world.token(world.root)
    assert world.root.is_weak_ok
    assert child.is_weak
    assert not child.is_weak_ok


def test_wait_on_a_weak_collection_without_set_weak_ok_is_misuse(world: World) -> None:
    world.token(world.root)
    world.root.set_weak()
    child = world.token(world.root)
    world.ready(child)
    with pytest.raises(Misuse, match="without SetWeakOk"):
        child.wait_for_all_buffers_allocated()
    child.set_weak_ok()
    child.wait_for_all_buffers_allocated()


def test_for_child_nodes_also_holds_for_later_children_and_their_descendants(world: World) -> None:
    before = world.token(world.root)
    world.root.set_weak_ok(for_child_nodes_also=True)
    world.root.set_weak_ok()  # never taken back
    after = world.token(world.root)
    grandchild = world.token(after)
    assert not before.is_weak_ok
    assert world.root.is_weak_ok
    assert after.is_weak_ok
    assert grandchild.is_weak_ok


# --- AttachNodeTracking ---


def test_a_tracking_closes_when_the_node_and_all_below_are_gone(world: World) -> None:
    world.ready(world.root, constraints=wanting(0, least=1))
    attached = world.attach(world.root)
    event = Event()
    attached.attach_node_tracking(event)
    child = world.token(attached)
    world.ready(attached, child, constraints=wanting(0))
    world.retire(attached)
    assert not is_closed(event)  # an orphan still reserves its counts
    child.client_closed()
    assert is_closed(event)
    assert world.is_open(world.root)


def test_a_tracking_survives_the_turn_in(world: World) -> None:
    event = Event()
    world.root.attach_node_tracking(event)
    world.bind(world.root)
    assert not is_closed(event)
    world.root.client_closed()
    assert is_closed(event)


def test_more_than_256_trackings_are_misuse(world: World) -> None:
    events = [Event() for _ in range(MAX_NODE_TRACKINGS + 1)]
    for event in events[:-1]:
        world.root.attach_node_tracking(event)
    with pytest.raises(Misuse, match="256"):
        world.root.attach_node_tracking(events[-1])
    assert [event.closed for event in events] == [False] * MAX_NODE_TRACKINGS + [True]


def test_events_whose_clients_are_gone_are_forgotten_but_count(world: World) -> None:
    for _ in range(MAX_NODE_TRACKINGS):
        event = Event()
        world.root.attach_node_tracking(event)
        event.go()
    with pytest.raises(Misuse, match="256"):
        world.root.attach_node_tracking(Event())
    gone, kept = Event(), Event()
    world.bind(world.root)
    for event in (gone, kept):
        world.root.attach_lifetime_tracking(event, 0)
    gone.go()
    world.root.set_constraints(wanting(1, least=1), None)
    (made,) = world.memory.made
    assert made.trackings == [(kept, 0)]


@pytest.mark.parametrize("attach", ["node", "lifetime"])
def test_an_event_is_closed_also_when_it_is_refused(world: World, attach: str) -> None:
    world.bind(world.root)
    world.root.release()
    event = Event()
    calls = {
        "node": lambda: world.root.attach_node_tracking(event),
        "lifetime": lambda: world.root.attach_lifetime_tracking(event, 0),
    }
    with pytest.raises(Misuse):
        calls[attach]()
    assert event.closed


def test_the_ref_closes_when_the_node_leaves(world: World) -> None:
    event = Event()
    world.root.ref = event
    world.bind(world.root)
    world.root.release()
    assert not is_closed(event)
    world.root.client_closed()
    assert is_closed(event)


# --- IsAlternateFor ---


def test_is_alternate_for(world: World) -> None:
    group = world.group(world.root)
    one, other = world.token(group), world.token(group)
    below = world.token(one)
    plain = world.token(world.root)
    assert one.is_alternate_for(other)
    assert below.is_alternate_for(other)
    assert group.is_alternate_for(group)  # a node counts as its own ancestor
    assert group.is_alternate_for(below)
    assert not one.is_alternate_for(below)
    assert not plain.is_alternate_for(below)
    assert not world.root.is_alternate_for(world.root)


def test_a_released_group_still_makes_alternates(world: World) -> None:
    group = world.group(world.root)
    one, other = world.token(group), world.token(group)
    group.all_children_present()
    world.retire(group)
    assert one.is_alternate_for(other)


def test_a_node_of_another_collection_or_that_left_is_not_found(world: World) -> None:
    world.ready(world.root)
    gone = world.attach(world.root)
    gone.client_closed()
    for other in (gone, World().root):
        with pytest.raises(NotInCollection):
            world.root.is_alternate_for(other)


# --- tokens ---


def test_duplicate_treats_mask_0_as_same_rights_and_logs_an_error(world: World) -> None:
    child = world.token(world.root, mask=0)
    assert child.rights_mask == world.root.rights_mask
    (line,) = world.log.entries
    assert line.level == "error"
    assert line.fields["client_name"] == "initiator"


@pytest.mark.parametrize("message", ["DuplicateSync", "CreateChildrenSync"])
def test_mask_0_in_a_list_is_misuse_and_makes_no_token(world: World, message: str) -> None:
    node = world.root if message == "DuplicateSync" else world.group(world.root)
    create = node.duplicate_sync if node is world.root else node.create_children_sync
    before = len(node.children)
    with pytest.raises(Misuse, match=message):
        create([Channel(), Channel()], [SAME_RIGHTS, 0])
    assert len(node.children) == before


@pytest.mark.parametrize("message", ["CreateChild", "AttachToken"])
def test_mask_0_is_misuse(world: World, message: str) -> None:
    node = world.group(world.root)
    create = node.create_child
    if message == "AttachToken":
        world.bind(world.root)
        create = world.root.attach_token
    with pytest.raises(Misuse, match=message):
        create(Channel(), 0)


def test_several_tokens_come_in_the_order_of_the_masks(world: World) -> None:
    tokens = world.root.duplicate_sync([Channel(), Channel()], [Rights.READ, SAME_RIGHTS])
    assert list(world.root.children) == tokens
    assert [token.rights_mask for token in tokens] == [Rights.READ, 0xFFFFFFFF]
    assert world.root.duplicate_sync([], []) == []


def test_children_start_with_the_mask_of_their_parent(world: World) -> None:
    parent = world.token(world.root, Rights.READ | Rights.MAP)
    group = world.group(parent)
    child = world.token(group, Rights.READ | Rights.WRITE)
    assert group.rights_mask == Rights.READ | Rights.MAP
    assert child.rights_mask == Rights.READ


def test_binding_keeps_place_mask_and_marks(world: World) -> None:
    token = world.token(world.root, Rights.READ)
    below = world.token(token)
    token.set_dispensable()
    token.set_weak()
    old = world.channels[token]
    world.bind(token)
    assert token.kind is NodeKind.COLLECTION
    assert token.parent is world.root
    assert list(token.children) == [below]
    assert token.rights_mask == Rights.READ
    assert token.isolation is Isolation.PROPAGATE_BEFORE_ALLOCATION
    assert token.is_weak
    assert token.channel is world.channels[token]
    assert not old.closed  # its giver closes it
    assert token.client == ClientInfo("initiator", 1)


def test_the_allocators_debug_client_info_replaces_the_tokens(world: World) -> None:
    world.bind(world.root, client=ClientInfo("display", 3))
    assert world.root.client == ClientInfo("display", 3)


def test_set_dispensable_never_weakens_a_stronger_isolation(world: World) -> None:
    world.bind(world.root)
    attached = world.attach(world.root)
    attached.set_dispensable()
    assert attached.isolation is Isolation.DO_NOT_PROPAGATE


# --- collections ---


def test_check_is_pending_before_the_attempt_and_none_after_success(world: World) -> None:
    child = world.token(world.root)
    world.bind(world.root)
    assert world.root.check_all_buffers_allocated() is Error.PENDING
    world.ready(child, world.root)
    assert world.root.check_all_buffers_allocated() is None


def test_check_while_the_error_is_on_its_way(world: World) -> None:
    world.bind(world.root)
    world.root.outcome = Error.NO_MEMORY
    assert world.root.check_all_buffers_allocated() is Error.NO_MEMORY


def test_an_attached_token_is_called_after_its_parent(world: World) -> None:
    world.bind(world.root)
    assert world.attach(world.root).client == ClientInfo("initiator then AttachToken()", 1)
    world.root.client = ClientInfo("", 5)
    assert world.attach(world.root).client == ClientInfo("from AttachToken()", 5)


def test_attach_token_on_a_weak_collection_is_misuse(world: World) -> None:
    child = world.token(world.root)
    child.set_weak()
    world.bind(child)
    with pytest.raises(Misuse, match="weak"):
        world.attach(child)


@pytest.mark.parametrize(
    ("usage", "mask", "delivers"),
    [
        (BufferUsage(cpu=CpuUsage.READ), SAME_RIGHTS, True),
        (BufferUsage(cpu=CpuUsage.READ), Rights.WRITE | Rights.MAP, False),
        (BufferUsage(none=NoneUsage.NONE_USAGE), SAME_RIGHTS, False),
    ],
)
def test_what_delivers_vmos(world: World, usage: BufferUsage, mask: int, delivers: bool) -> None:
    child = world.token(world.root, mask)
    world.ready(world.root)
    world.ready(child, constraints=wanting(usage=usage))
    assert allocated(child).delivers_vmo == delivers
    assert allocated(world.root).delivers_vmo


def test_everybody_gets_the_same_settings(world: World) -> None:
    child = world.token(world.root)
    world.ready(world.root, child)
    attached = world.attach(child)
    world.ready(attached, constraints=wanting(0))
    outcomes = [allocated(node) for node in (world.root, child, attached)]
    assert len({id(outcome.settings) for outcome in outcomes}) == 1
    assert {outcome.count for outcome in outcomes} == {2}
    assert len({id(outcome.buffers) for outcome in outcomes}) == 1


def test_must_match_takes_part_as_an_entry_of_its_own(world: World) -> None:
    world.bind(world.root)
    world.root.set_constraints(wanting(), SETTINGS)
    assert [entry.pinned for entry in world.engine.calls[0]] == [False, True]


def test_constraints_un_set_are_an_empty_table(world: World) -> None:
    child = world.token(world.root)
    world.bind(child)
    child.set_constraints(None, None)
    world.ready(world.root)
    assert [entry.constraints for entry in world.engine.calls[0]] == [wanting(), None]


# --- groups ---


def test_all_children_present_without_a_child_is_misuse(world: World) -> None:
    group = world.group(world.root)
    with pytest.raises(Misuse, match="without children"):
        group.all_children_present()


# --- what a node tells about itself ---


def test_a_node_tells_where_it_is_in_its_life(world: World) -> None:
    child = world.token(world.root)
    assert (child.is_connected, child.is_released, child.in_tree) == (True, False, True)
    child.release()
    assert (child.is_connected, child.is_released, child.in_tree) == (True, True, True)
    child.client_closed()
    assert (child.is_connected, child.is_released, child.in_tree) == (False, True, True)
    child.client_closed()  # once is enough, twice has no effect
    world.root.client_closed()
    assert (child.is_connected, child.is_released, child.in_tree) == (False, False, False)
    assert repr(child) == "<Node 2 of 7: a failed node>"


# --- what handles will be like ---


@pytest.mark.parametrize(
    ("usage", "mask", "access"),
    [
        (BufferUsage(cpu=CpuUsage.WRITE), SAME_RIGHTS, Access.WRITABLE),
        (BufferUsage(cpu=CpuUsage.READ), SAME_RIGHTS, Access.READ_ONLY),
        (BufferUsage(cpu=CpuUsage.WRITE), Rights.READ | Rights.MAP, Access.READ_ONLY),
        (BufferUsage(cpu=CpuUsage.WRITE), Rights.WRITE, NO_HANDLES),
        (BufferUsage(none=NoneUsage.NONE_USAGE), SAME_RIGHTS, NO_HANDLES),
    ],
)
def test_a_participant_brings_what_its_handles_will_be_like(
    world: World, usage: BufferUsage, mask: int, access: Access
) -> None:
    strong, weak = world.token(world.root, mask), world.token(world.root, mask)
    weak.set_weak()
    world.bind(strong, weak)
    constraints = BufferCollectionConstraints(usage=usage)
    for node, expected in ((strong, access), (weak, access and access | Access.WEAK)):
        node.set_constraints(constraints, None)
        assert [participant.access for participant in node.participants()] == [expected]
