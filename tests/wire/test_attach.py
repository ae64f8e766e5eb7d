"""Attached tokens (`docs/spec/protocol.md`, "BufferCollection"; `docs/spec/allocation.md`)."""

from __future__ import annotations

from typing import Any

from .protocol import (
    CONSTRAINTS_INTERSECTION_EMPTY,
    PENDING,
    READER,
    constraints,
    only_sizes,
)
from .raw import Allocator, Collection, Wire, assert_close


def allocated(wire: Wire, **table: Any) -> tuple[Allocator, Collection]:
    allocator = wire.connect()
    collection = allocator.non_shared()
    collection.allocate(**table)
    return allocator, collection


def test_an_attached_token_gets_the_existing_buffers(wire: Wire) -> None:
    allocator, main = allocated(wire, camping=2)
    attached = main.attach()
    main.sync()
    late = allocator.bind(attached)
    late.set_constraints(READER)
    mapping = main.wait().vmo(1).map()
    mapping[:4] = b"late"
    info = late.wait()
    assert len(info.buffers) == 2
    assert info.vmo(1).map(write=False)[:4] == b"late"
    assert info.collection_id == main.collection_id()


def test_attach_before_the_own_allocation_waits_for_it(wire: Wire) -> None:
    allocator, one, other = wire.two()
    attached = one.attach()
    one.set_constraints(constraints(camping=2))
    one.sync()
    late = allocator.bind(attached)
    wait = late.request_with(READER)
    assert late.check() == PENDING
    other.set_constraints(READER)
    assert len(one.wait().buffers) == 2
    assert len(late.wait_answer(wait).buffers) == 2


def test_an_attached_token_does_not_hold_up_the_collection(wire: Wire) -> None:
    _, one, other = wire.two()
    one.attach()
    for collection in (one, other):
        collection.set_constraints(constraints())
    one.wait()


def test_camping_of_attached_participants_is_served_first_come(wire: Wire) -> None:
    allocator, main = allocated(wire, camping=1, more={5: 3})
    tokens = [main.attach() for _ in range(3)]
    main.sync()
    first, second, third = (allocator.bind(token) for token in tokens)
    for one in (first, second):
        assert len(one.allocate(camping=1, size=None).buffers) == 3
    gone = first.track_node()
    third.set_constraints(constraints(camping=1, size=None))
    third.assert_closes()
    main.sync()
    second.sync()
    first.close()
    gone.wait_closed()
    again = main.attach()
    main.sync()
    fourth = allocator.bind(again)
    assert len(fourth.allocate(camping=1, size=None).buffers) == 3


def test_an_attached_attempt_that_fails_gives_its_subtree_the_error_alone(wire: Wire) -> None:
    allocator, main = allocated(wire)
    attached = main.attach()
    child = attached.duplicate_token()
    attached.sync()
    one, other = allocator.bind(attached), allocator.bind(child)
    wait = one.request_with(constraints(camping=0))
    other.set_constraints(constraints(camping=0, size=4097))
    assert one.answer(wait).body == {2: CONSTRAINTS_INTERSECTION_EMPTY}
    assert_close(one, other)
    main.sync()


def test_an_attached_nodes_failure_never_reaches_its_parent(wire: Wire) -> None:
    allocator, main = allocated(wire)
    attached = main.attach()
    below = attached.duplicate_token()
    attached.sync()
    below.close()
    attached.assert_closes()
    main.sync()
    pending = allocator.non_shared()
    token = pending.attach()
    token.sync()
    token.send_bytes(b"?")
    token.assert_closes()
    pending.sync()


def test_the_parents_failure_takes_attached_nodes_along(wire: Wire) -> None:
    allocator, main = allocated(wire)
    attached = main.attach()
    attached.sync()
    main.close()
    attached.assert_closes()
    allocator.sync()


def test_when_the_root_attempt_fails_waiting_attached_collections_get_the_error(
    wire: Wire,
) -> None:
    allocator, one, other = wire.two()
    attached = one.attach()
    one.sync()
    late = allocator.bind(attached)
    wait = late.request_with(READER)
    one.set_constraints(only_sizes(1, 10))
    one.sync()
    other.set_constraints(only_sizes(20, 30))
    assert late.answer(wait).body == {2: CONSTRAINTS_INTERSECTION_EMPTY}
    late.assert_closes()


def test_a_child_attached_under_an_attached_node_waits_for_that_nodes_allocation(
    wire: Wire,
) -> None:
    allocator, main = allocated(wire, camping=2)
    attached = main.attach()
    main.sync()
    middle = allocator.bind(attached)
    token = middle.attach()
    middle.sync()
    leaf = allocator.bind(token)
    wait = leaf.request_with(READER)
    assert leaf.check() == PENDING
    middle.set_constraints(READER)
    assert len(leaf.wait_answer(wait).buffers) == 2


def test_attach_on_a_released_and_kept_collection_is_a_message_after_release(wire: Wire) -> None:
    _, one, other = wire.two()
    one.release()
    late = one.attach()
    assert_close(other, late)


def test_attached_participants_get_the_existing_settings_in_every_field(wire: Wire) -> None:
    allocator = wire.connect()
    main = allocator.non_shared()
    entry = {1: 101, 2: 0, 3: [1], 4: [64, 64], 18: [[100, 80], [90, 90]]}
    info = main.allocate(size=None, more={8: [entry]})
    assert info.settings[2][18] == [[90, 90], [100, 80]]
    token = main.attach()
    main.sync()
    late = allocator.bind(token)
    assert (
        late.allocate(camping=0, size=None, more={8: [entry | {18: [[90, 90]]}]}).settings
        == info.settings
    )


def test_lifetime_tracking_of_an_attached_node_that_fails_before_its_allocation(
    wire: Wire,
) -> None:
    allocator, main = allocated(wire)
    token = main.attach()
    main.sync()
    late = allocator.bind(token)
    gone = late.track_lifetime(0)
    late.sync()
    late.close()
    gone.wait_closed()
    main.sync()
