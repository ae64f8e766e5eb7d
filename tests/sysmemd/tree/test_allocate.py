"""Logical allocation; `docs/spec/allocation.md`, "Logical allocation" and "Lifetime"."""

from __future__ import annotations

import pytest

from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    Error,
    Rights,
)
from sysmemd import constraints as engine
from sysmemd.constraints import Platform
from sysmemd.explaining import Explanation, listing
from sysmemd.ports import ClientInfo, NoMemoryError
from sysmemd.tree import Allocated, LogicalBufferCollection, Node
from sysmemd.tree.data import MAX_ATTEMPTS

from ..recording import RecordingLog
from .world import (
    COLLECTION_ID,
    IMPOSSIBLE,
    SETTINGS,
    Channel,
    Event,
    FakeClock,
    FakeRefusal,
    Memory,
    World,
    wanting,
)


@pytest.fixture
def world() -> World:
    return World()


def has_buffers(*nodes: Node) -> list[bool]:
    return [isinstance(node.outcome, Allocated) for node in nodes]


# --- when ---


def test_nothing_is_attempted_before_every_node_is_ready(world: World) -> None:
    token, collection, group = world.token(world.root), world.token(world.root), None
    group = world.group(world.root)
    child = world.token(group)
    world.ready(world.root, child)
    world.bind(collection)
    assert not world.engine.calls
    world.retire(token)
    assert not world.engine.calls
    group.all_children_present()
    assert not world.engine.calls
    collection.set_constraints(None, None)
    assert len(world.engine.calls) == 1


def test_a_release_takes_effect_when_the_client_end_closes(world: World) -> None:
    child = world.token(world.root)
    world.ready(world.root)
    child.release()
    assert not world.engine.calls
    child.client_closed()
    assert has_buffers(world.root, child) == [True, True]


def test_releasing_before_set_constraints_contributes_none(world: World) -> None:
    child = world.token(world.root)
    world.bind(child)
    world.retire(child)
    world.ready(world.root)
    assert len(world.engine.calls[0]) == 1


def test_an_orphans_constraints_are_kept(world: World) -> None:
    child = world.token(world.root)
    world.ready(child, constraints=wanting(3))
    world.retire(child)
    world.ready(world.root)
    assert world.collection.allocation is not None
    assert world.collection.allocation.buffer_count == 4


def test_children_of_unselected_groups_must_be_ready_too(world: World) -> None:
    group = world.group(world.root)
    first, second = world.token(group), world.token(group)
    group.all_children_present()
    world.ready(world.root, first)
    assert not world.engine.calls
    world.ready(second)
    assert has_buffers(first) == [True]


def test_participants_come_breadth_first(world: World) -> None:
    one, two = world.token(world.root), world.token(world.root)
    below_one, below_two = world.token(one), world.token(two)
    expected = [world.root, one, two, below_one, below_two]
    for number, node in enumerate(expected):
        world.bind(node, client=ClientInfo(str(number)))
    world.ready(*reversed(expected))
    assert [entry.name for entry in world.engine.calls[0]] == ["0", "1", "2", "3", "4"]


# --- the root's attempt ---


def test_buffers_are_allocated_once_and_a_shortage_is_not_retried(world: World) -> None:
    group = world.group(world.root)
    first, second = world.token(group), world.token(group)
    group.all_children_present()
    world.memory.error = NoMemoryError("no descriptor left")
    world.ready(world.root, first, second)
    assert len(world.memory.requests) == 1
    assert world.root.outcome is Error.NO_MEMORY
    assert world.times_gone() == 1
    (line,) = world.log.find("allocation failed")
    assert line.level == "error"
    assert line.fields["error"] == "NO_MEMORY"
    assert line.fields["reason"] == "no descriptor left"
    attempt = world.collection.last_attempt
    assert attempt is not None
    assert (attempt.error, attempt.reason) == (Error.NO_MEMORY, "no descriptor left")


def test_a_failed_root_attempt_answers_attached_collections_too(world: World) -> None:
    child = world.token(world.root)
    world.bind(world.root)
    attached = world.attach(world.root)
    world.ready(attached)
    world.root.set_constraints(IMPOSSIBLE, None)
    world.ready(child)
    for node in (world.root, child, attached):
        assert node.outcome is Error.CONSTRAINTS_INTERSECTION_EMPTY
        assert world.channels[node].answers == 1
        assert not world.is_open(node)


def test_selected_and_hidden(world: World) -> None:
    group = world.group(world.root)
    first, second = world.token(group), world.token(group)
    group.all_children_present()
    world.ready(first, constraints=IMPOSSIBLE)
    world.ready(world.root, second)
    assert has_buffers(world.root, group, first, second) == [True, True, False, True]
    assert not world.is_open(first)
    attempt = world.collection.last_attempt
    assert attempt is not None
    assert [str(entry) for entry in attempt.refused] == ["[0]: 3 buffers are wanted, 1 allowed"]


def test_what_hangs_below_a_hidden_node_fails_with_it(world: World) -> None:
    group = world.group(world.root)
    chosen, hidden = world.token(group), world.token(group)
    world.bind(hidden)
    attached = world.attach(hidden)
    group.all_children_present()
    world.ready(world.root, chosen, hidden)
    assert not world.is_open(attached)
    assert world.is_open(chosen)


def test_a_group_left_without_clients_by_its_selection_fails_its_domain(world: World) -> None:
    world.ready(world.root, constraints=wanting(0, least=1))
    attached = world.attach(world.root)
    group = world.group(attached)
    orphan, hidden = world.token(group), world.token(group)
    group.all_children_present()
    world.ready(hidden, orphan, constraints=wanting(0))
    world.retire(orphan, group, attached)
    assert not attached.in_tree
    assert world.is_open(world.root)


def test_a_hidden_strong_node_does_not_keep_buffers(world: World) -> None:
    group = world.group(world.root)
    world.root.set_weak()
    weak, strong = world.token(group), world.token(group)
    weak.set_weak()
    group.all_children_present()
    world.ready(strong, weak, world.root)
    world.retire(group)
    assert has_buffers(world.root, weak, strong) == [True, True, False]
    assert world.buffers.times_dropped() == 1


# --- attached attempts ---


def test_a_token_attached_after_allocation_joins_what_exists(world: World) -> None:
    world.ready(world.root, constraints=wanting(1, least=2))
    attached = world.attach(world.root)
    assert attached.outcome is None
    world.ready(attached)
    assert has_buffers(attached) == [True]
    assert len(world.memory.made) == 1
    assert world.channels[world.root].answers == 1


def test_a_token_attached_before_allocation_waits_for_its_parent_and_holds_nobody_up(
    world: World,
) -> None:
    world.bind(world.root)
    attached, slow = world.attach(world.root), world.attach(world.root)
    world.ready(attached, constraints=wanting(0))
    assert attached.outcome is None
    world.ready(world.root)
    assert has_buffers(world.root, attached, slow) == [True, True, False]
    assert world.is_open(slow)


def test_a_child_attached_under_an_attached_node_waits_for_that_ones_own_allocation(
    world: World,
) -> None:
    world.ready(world.root, constraints=wanting(0, least=1))
    outer = world.attach(world.root)
    world.bind(outer)
    inner = world.attach(outer)
    world.ready(inner, constraints=wanting(0))
    assert inner.outcome is None
    world.ready(outer, constraints=wanting(0))
    assert has_buffers(outer, inner) == [True, True]


def test_first_come_first_served_in_breadth_first_order(world: World) -> None:
    child = world.token(world.root)
    world.bind(world.root, child)
    late = world.attach(child)
    early = world.attach(world.root)
    second = world.attach(world.root)
    world.ready(late, second, early)
    child.set_constraints(wanting(0), None)
    world.root.set_constraints(wanting(0, least=2), None)
    assert has_buffers(early, second, late) == [True, True, False]
    assert late.outcome is Error.CONSTRAINTS_INTERSECTION_EMPTY


def test_counts_are_free_again_once_a_participant_has_left_the_tree(world: World) -> None:
    world.ready(world.root, constraints=wanting(0, least=1))
    first = world.attach(world.root)
    world.ready(first)
    refused = world.attach(world.root)
    world.ready(refused)
    assert not world.is_open(refused)
    world.retire(first)
    again = world.attach(world.root)
    world.ready(again)
    assert has_buffers(again) == [True]


def test_a_failed_attached_attempt_fails_its_subtree_only(world: World) -> None:
    world.ready(world.root)
    attached = world.attach(world.root)
    below = world.token(attached)
    world.bind(attached)
    inner = world.attach(attached)
    world.ready(attached, inner)
    world.ready(below, constraints=IMPOSSIBLE)
    for node in (attached, below, inner):
        assert node.outcome is Error.CONSTRAINTS_INTERSECTION_EMPTY
        assert world.channels[node].answers == 1
        assert not world.is_open(node)
    assert world.is_open(world.root)
    assert has_buffers(world.root) == [True]
    (line,) = world.log.find("allocation failed")
    assert line.level == "warning"


def test_an_attached_subtree_selects_among_its_own_groups(world: World) -> None:
    world.ready(world.root, constraints=wanting(0, least=1))
    attached = world.attach(world.root)
    group = world.group(attached)
    first, second = world.token(group), world.token(group)
    group.all_children_present()
    world.ready(first, constraints=wanting(2))
    world.ready(second, constraints=wanting(1))
    world.ready(attached, constraints=wanting(0))
    assert has_buffers(attached, first, second) == [True, False, True]
    assert not world.is_open(first)


def test_those_who_allocated_so_far_take_part_with_the_selected_breadth_first(world: World) -> None:
    child = world.token(world.root)
    world.bind(world.root, client=ClientInfo("root"))
    world.bind(child, client=ClientInfo("child"))
    attached = world.attach(world.root)
    unready = world.attach(world.root)
    world.bind(attached, client=ClientInfo("attached"))
    world.ready(world.root, child, attached, constraints=wanting(0, least=1))
    assert [entry.name for entry in world.engine.calls[-1]] == ["root", "child", "attached"]
    deep = world.attach(child)
    world.bind(deep, client=ClientInfo("deep"))
    world.ready(deep, constraints=wanting(0))
    names = [entry.name for entry in world.engine.calls[-1]]
    assert names == ["root", "child", "attached", "deep"]
    assert world.is_open(unready)


def test_the_engine_gets_the_same_participants_again(world: World) -> None:
    world.ready(world.root, constraints=wanting(0, least=1))
    world.ready(world.attach(world.root), constraints=wanting(0))
    assert world.engine.calls[0][0] is world.engine.calls[1][0]


def test_those_who_have_the_buffers_are_gathered_once_for_all_who_join(world: World) -> None:
    world.ready(world.root, constraints=wanting(0, least=1))
    for _ in range(10):
        world.ready(world.attach(world.root), constraints=wanting(0))
    assert world.engine.joinings == 1
    assert len(world.engine.calls[-1]) == 11


@pytest.mark.parametrize("how", ["leaves", "renamed"])
def test_they_are_gathered_again_when_one_of_them_changes(world: World, how: str) -> None:
    world.ready(world.root, constraints=wanting(0, least=1))
    first, second = world.attach(world.root), world.attach(world.root)
    world.ready(first, second, constraints=wanting(0))
    if how == "leaves":
        world.retire(first)
    else:
        first.set_debug_client_info(ClientInfo("new name"))
    world.ready(world.attach(world.root), constraints=wanting(0))
    assert world.engine.joinings == 2
    names = [entry.name for entry in world.engine.calls[-1]]
    assert len(names) == (3 if how == "leaves" else 4)
    assert ("new name" in str(names)) == (how == "renamed")


def test_one_who_is_refused_does_not_count_for_the_next(world: World) -> None:
    world.ready(world.root, constraints=wanting(0, least=2))
    refused, joined = world.attach(world.root), world.attach(world.root)
    world.ready(refused, constraints=wanting(3))
    world.ready(joined, constraints=wanting(2))
    assert has_buffers(refused, joined) == [False, True]
    assert world.engine.joinings == 1


# --- lifetime ---


def test_a_lifetime_tracking_waits_for_the_allocation(world: World) -> None:
    event, high = Event(), Event()
    world.bind(world.root)
    world.root.attach_lifetime_tracking(event, 0)
    world.root.attach_lifetime_tracking(high, 1)
    world.root.set_constraints(wanting(), None)
    assert world.buffers.trackings == [(event, 0), (high, 1)]
    assert (event.closed, high.closed) == (False, True)


def test_a_lifetime_tracking_after_allocation_goes_to_the_buffers_at_once(world: World) -> None:
    world.ready(world.root)
    event = Event()
    world.root.attach_lifetime_tracking(event, 0)
    assert world.buffers.trackings == [(event, 0)]
    world.root.client_closed()
    assert not event.closed  # it outlives the node and the tree


def test_a_lifetime_tracking_is_kept_when_its_node_was_released_and_closed(world: World) -> None:
    child = world.token(world.root)
    world.bind(child)
    event = Event()
    child.attach_lifetime_tracking(event, 0)
    world.retire(child)
    assert not event.closed
    world.ready(world.root)
    assert world.buffers.trackings == [(event, 0)]


@pytest.mark.parametrize("how", ["allocation", "node", "hidden"])
def test_a_lifetime_tracking_is_closed_when_there_is_nothing_to_track(
    world: World, how: str
) -> None:
    group = world.group(world.root)
    first, second = world.token(group), world.token(group)
    group.all_children_present()
    event = Event()
    world.bind(second)
    second.attach_lifetime_tracking(event, 0)
    if how == "node":
        second.client_closed()
    else:
        world.ready(
            first, second, world.root, constraints=IMPOSSIBLE if how == "allocation" else None
        )
    assert event.closed
    assert world.is_open(world.root) == (how == "hidden")


# --- what is said ---


def test_a_refusal_is_one_line_with_its_structure(world: World) -> None:
    world.ready(world.root, constraints=IMPOSSIBLE)
    (line,) = world.log.find("allocation failed")
    assert line.level == "error"
    assert line.fields == {
        "collection_id": COLLECTION_ID,
        "collection_name": "",
        "node": "collection 1",
        "client_name": "initiator",
        "client_id": 1,
        "error": "CONSTRAINTS_INTERSECTION_EMPTY",
        "reason": "2 buffers are wanted, 1 allowed (conflict)",
        "rule": "COUNT_OVER_MAX",
        "field": "$.max_buffer_count",
        "conflict": ["initiator (1)"],
    }
    assert not world.log.find("combined result")


def test_a_report_is_made_for_whoever_wants_it_and_logged_for_nobody_else(world: World) -> None:
    world.collection.wants_reports = True
    world.ready(world.root, constraints=IMPOSSIBLE)
    attempt = world.collection.last_attempt
    assert attempt is not None
    assert attempt.report == "report: 2 buffers are wanted, 1 allowed (conflict)"
    assert not world.log.find("combined result")


def test_attempts_are_kept_with_what_they_came_from(world: World) -> None:
    world.collection.wants_reports = True
    world.clock.time = 7
    world.ready(world.root, constraints=wanting(1))
    attached = [world.attach(world.root) for _ in range(MAX_ATTEMPTS + 1)]
    for node in attached:
        world.ready(node, constraints=IMPOSSIBLE)
    first, *others = world.collection.attempts
    assert (first.start, first.error, first.at, first.report) == (1, None, 7, None)
    assert first.allocation is world.collection.allocation
    assert list(first.participants) == [1]
    assert [attempt.start for attempt in others] == [n.number for n in attached][
        -MAX_ATTEMPTS + 1 :
    ]
    assert {attempt.error for attempt in others} == {Error.CONSTRAINTS_INTERSECTION_EMPTY}
    assert {attempt.allocation for attempt in others} == {None}
    assert world.collection.last_attempt is others[-1]


def test_verbose_logging_tells_constraints_tree_and_result(world: World) -> None:
    world.root.set_verbose_logging()
    child = world.token(world.root)
    world.ready(child, constraints=wanting(3))
    world.ready(world.root)
    lines = {line.event: line for line in world.log.entries}
    assert {line.level for line in world.log.entries} == {"info"}
    assert "$.min_buffer_count_for_camping = 1" in lines["constraints set"].fields["constraints"]
    assert lines["attempting allocation"].fields["tree"].splitlines() == [
        "collection 1: initiator (1): a collection whose constraints are set [ready]",
        "  collection 2: initiator (1): a collection whose constraints are set [ready]",
    ]
    assert lines["combined result"].fields["report"] == listing(SETTINGS)
    assert lines["allocated"].fields["count"] == 4


def test_verbose_logging_of_a_refusal_has_the_full_report(world: World) -> None:
    world.root.set_verbose_logging()
    world.ready(world.root, constraints=IMPOSSIBLE)
    (line,) = world.log.find("combined result")
    assert line.level == "info"
    assert line.fields["report"] == "report: 2 buffers are wanted, 1 allowed (conflict)"


def test_verbose_logging_of_a_refusal_has_a_line_for_each_of_several_selections(
    world: World,
) -> None:
    world.root.set_verbose_logging()
    group = world.group(world.root)
    children = [world.token(group) for _ in range(2)]
    group.all_children_present()
    for child in children:
        world.ready(child, constraints=IMPOSSIBLE)
    world.ready(world.root)
    (line,) = world.log.find("combined result")
    report = line.fields["report"].splitlines()
    assert report[0].startswith("report: ")
    assert [entry.split(":")[0] for entry in report[-3:]] == ["selections", "  [0]", "  [1]"]


def broken(*_: object, **__: object) -> str:
    raise ValueError("can't put it\ninto words")


def test_an_outcome_that_cannot_be_told_is_the_outcome_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for telling in ("__str__", "report", "line"):
        monkeypatch.setattr(FakeRefusal, telling, broken)
    monkeypatch.setattr(FakeRefusal, "conflict", property(broken))
    world.root.set_verbose_logging()
    with monkeypatch.context() as patch:
        patch.setattr("linecache.checkcache", None)  # no source file is read to find the line
        world.ready(world.root, constraints=IMPOSSIBLE)
    assert world.root.outcome is Error.CONSTRAINTS_INTERSECTION_EMPTY
    (line,) = world.log.find("allocation failed")
    place = f"test_allocate.py:{broken.__code__.co_firstlineno + 1}"
    told = 'no description, because of an error in the daemon: ValueError("can\'t put it\\ninto words")'
    assert line.fields["reason"] == f"{told} in {place}"
    assert line.fields["reason"] == line.fields["conflict"]
    (line,) = world.log.find("combined result")
    assert line.fields["report"] == f"{told} in {place}"


# --- with the daemon's own engine ---


def real(
    constraints: BufferCollectionConstraints, *, verbose: bool = False
) -> tuple[Node, RecordingLog]:
    log = RecordingLog()
    collection = LogicalBufferCollection(
        COLLECTION_ID,
        channel=Channel(),
        client=ClientInfo("initiator", 1),
        platform=Platform(),
        memory=Memory(),
        clock=FakeClock(),
        log=log,
    )
    root = collection.root
    root.bind(Channel(), None)
    if verbose:
        root.set_verbose_logging()
    root.set_constraints(constraints, None)
    return root, log


def test_the_daemons_engine_decides_unless_a_test_says_otherwise() -> None:
    table = wanting(2)
    table.buffer_memory_constraints = BufferMemoryConstraints(min_size_bytes=5000)
    root, log = real(table, verbose=True)
    assert isinstance(root.outcome, Allocated)
    assert root.outcome.count == 2
    memory = root.outcome.settings.buffer_settings
    assert memory is not None
    assert (memory.size_bytes, memory.raw_vmo_size) == (5000, 8192)
    (line,) = log.find("combined result")
    assert "size_bytes" in line.fields["report"]


def test_a_success_that_cannot_be_explained_is_a_success_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Explanation, "report", broken)
    table = wanting(2)
    table.buffer_memory_constraints = BufferMemoryConstraints(min_size_bytes=5000)
    root, log = real(table, verbose=True)
    assert isinstance(root.outcome, Allocated)
    (line,) = log.find("combined result")
    assert line.fields["report"].startswith(
        "no description, because of an error in the daemon: ValueError"
    )


def test_attached_participants_join_by_the_daemons_engine() -> None:
    table = wanting(2)
    table.buffer_memory_constraints = BufferMemoryConstraints(min_size_bytes=5000)
    root, log = real(table)
    assert isinstance(root.outcome, Allocated)
    outcomes: list[object] = []
    for camping in (0, 1):
        attached = root.attach_token(Channel(), Rights.SAME_RIGHTS)
        attached.bind(Channel(), None)
        attached.set_constraints(wanting(camping), root.outcome.settings)
        outcomes.append(attached.outcome)
    assert isinstance(outcomes[0], Allocated)
    assert outcomes[0].settings is root.outcome.settings
    assert outcomes[1] is Error.CONSTRAINTS_INTERSECTION_EMPTY
    (line,) = log.find("allocation failed")
    assert line.level == "warning"


def test_the_daemons_engine_refuses_with_structure() -> None:
    root, log = real(IMPOSSIBLE)
    assert root.outcome is Error.CONSTRAINTS_INTERSECTION_EMPTY
    (line,) = log.find("allocation failed")
    assert line.fields["rule"] in engine.Rule.__members__
    assert line.fields["reason"]
