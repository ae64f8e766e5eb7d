"""Collections (`docs/spec/protocol.md`, "BufferCollection"; `docs/spec/allocation.md`, "Ready" and "Lifetime")."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from .protocol import (
    CONSTRAINTS_INTERSECTION_EMPTY,
    CPU_READ_OFTEN,
    CPU_WRITE_OFTEN,
    PENDING,
    SYSTEM_RAM,
    constraints,
    only_sizes,
)
from .raw import Collection, Descriptor, Token, Wire, assert_close

# SetConstraints, WaitForAllBuffersAllocated, CheckAllBuffersAllocated


def test_buffer_collection_info_has_every_field_the_spec_sets(wire: Wire) -> None:
    collection, info = wire.allocated(camping=2, size=5000)
    assert info.memory == {
        1: 5000,
        2: False,
        3: False,
        4: 0,
        5: {1: SYSTEM_RAM, 2: 0},
        6: 8192,
    }
    assert set(info.settings) == {1}
    assert [set(buffer) for buffer in info.buffers] == [{1, 2}, {1, 2}]
    assert info.buffers[0][2] == 0
    assert info.collection_id == collection.collection_id()


def test_two_participants_see_each_others_writes(wire: Wire) -> None:
    _, one, other = wire.two()
    one.set_constraints(constraints(camping=2))
    other.set_constraints(constraints(camping=1))
    mine, theirs = one.wait(), other.wait()
    assert len(mine.buffers) == len(theirs.buffers) == 3
    for index in range(3):
        mine.vmo(index).map()[:1] = bytes([index + 1])
        assert theirs.vmo(index).map()[:1] == bytes([index + 1])
        status = os.fstat(mine.vmo(index).fileno())
        assert os.fstat(theirs.vmo(index).fileno()).st_ino == status.st_ino


def test_wait_before_set_constraints_fails_the_node(wire: Wire) -> None:
    _, one, other = wire.two()
    one.request_wait()
    assert_close(one, other)


def test_set_constraints_a_second_time_fails_the_node(wire: Wire) -> None:
    _, one, other = wire.two()
    one.set_constraints(constraints())
    one.sync()
    one.set_constraints(constraints())
    assert_close(one, other)


def test_set_constraints_again_after_allocation_fails_the_node(wire: Wire) -> None:
    collection, _ = wire.allocated()
    collection.set_constraints(None)
    collection.assert_closes()


def test_wait_may_be_called_several_times_also_after_allocation(wire: Wire) -> None:
    _, one, other = wire.two()
    one.set_constraints(constraints())
    waits = [one.request_wait() for _ in range(3)]
    other.set_constraints({})
    inodes = {os.fstat(one.wait_answer(wait).vmo().fileno()).st_ino for wait in waits}
    assert len(inodes) == 1
    assert len(one.wait().buffers) == 1


def test_check_is_pending_until_the_attempt_and_success_after_it(wire: Wire) -> None:
    _, one, other = wire.two()
    assert one.check() == PENDING
    one.set_constraints(constraints())
    assert one.check() == PENDING
    other.set_constraints({})
    assert other.check() is None
    assert one.check() is None


def test_own_allocation_fails_gives_the_error_then_closes(wire: Wire) -> None:
    _, one, other = wire.two()
    one.set_constraints(only_sizes(1, 10))
    waits = [one.request_wait() for _ in range(2)]
    one.sync()
    other.set_constraints(only_sizes(20, 30))
    for wait in waits:
        assert one.answer(wait).body == {2: CONSTRAINTS_INTERSECTION_EMPTY}
    assert_close(one, other)


def test_a_wait_after_an_attempt_that_failed_at_once_sees_peer_closed(wire: Wire) -> None:
    collection = wire.connect().non_shared()
    collection.set_constraints({})
    collection.assert_closes()


def test_a_pipelined_wait_and_constraints_that_fail(wire: Wire) -> None:
    """The only participant: its SetConstraints fails the attempt before the wait arrives."""
    allocator = wire.connect()
    client, server = wire.pair()
    collection = Collection(wire, client)
    collection.set_constraints({})
    collection.request_wait()
    allocator.send("Allocator.AllocateNonSharedCollection", {1: server})
    collection.assert_closes()


def test_another_participants_failure_before_allocation_gives_no_answer(wire: Wire) -> None:
    _, one, other = wire.two()
    one.set_constraints(constraints())
    one.request_wait()
    one.sync()
    other.close()
    one.assert_closes()


def test_another_participants_failure_after_allocation_closes(wire: Wire) -> None:
    _, one, other = wire.two()
    for collection in (one, other):
        collection.set_constraints(constraints())
    mapping = one.wait().vmo().map()
    other.wait()
    mapping[:4] = b"mine"
    other.close()
    one.assert_closes()
    assert mapping[:4] == b"mine"


def test_releasing_before_set_constraints_contributes_none(wire: Wire) -> None:
    _, one, other = wire.two()
    other.release_and_close()
    assert len(one.allocate(camping=1).buffers) == 1


def test_releasing_after_set_constraints_keeps_them(wire: Wire) -> None:
    _, one, other = wire.two()
    other.set_constraints(constraints(camping=4, size=9000))
    other.release_and_close()
    info = one.allocate(camping=1)
    assert (len(info.buffers), info.memory[1]) == (5, 9000)


def test_no_participant_that_asks_for_a_size_is_an_empty_intersection(wire: Wire) -> None:
    _, one, other = wire.two()
    wait = one.request_with(constraints(size=None))
    other.set_constraints({})
    assert one.answer(wait).body == {2: CONSTRAINTS_INTERSECTION_EMPTY}


def test_counts_add_up(wire: Wire) -> None:
    _, one, other = wire.two()
    one.set_constraints(constraints(camping=2, more={3: 1, 4: 3}))
    other.set_constraints(constraints(camping=1, more={3: 1, 4: 2, 5: 9}))
    assert len(one.wait().buffers) == 9


def test_128_buffers_are_delivered_and_129_refused(wire: Wire) -> None:
    _, info = wire.allocated(camping=128)
    assert len(info.buffers) == 128
    assert info.message.parts == 1
    assert len({os.fstat(info.vmo(n).fileno()).st_ino for n in range(128)}) == 128
    _, one, other = wire.two()
    wait = one.request_with(constraints(camping=128))
    other.set_constraints(constraints(camping=1))
    assert one.answer(wait).body == {2: CONSTRAINTS_INTERSECTION_EMPTY}


def test_a_malformed_message_after_constraints_still_fails_the_node(wire: Wire) -> None:
    _, one, other = wire.two()
    one.set_constraints(constraints())
    one.request_wait()
    one.send_bytes(b"?")
    assert_close(one, other)


# must_match_vmo


def test_must_match_vmo_pins_the_settings_but_not_the_count(wire: Wire) -> None:
    allocator = wire.connect()
    old = allocator.non_shared()
    vmo = old.allocate(camping=2, size=5000).vmo()
    new = allocator.non_shared()
    new.set_constraints(constraints(camping=3, size=1), must_match=vmo)
    info = new.wait()
    assert (len(info.buffers), info.memory[1]) == (3, 5000)
    old.close()
    vmo.close()
    new.sync()


def test_must_match_vmo_is_resolved_at_once(wire: Wire) -> None:
    allocator = wire.connect()
    old = allocator.non_shared()
    info = old.allocate(size=5000)
    gone = old.track_lifetime(0)
    _, one, other = wire.two()
    one.set_constraints(constraints(size=None), must_match=info.vmo())
    one.sync()
    old.close()
    info.close()
    gone.wait_closed()
    other.set_constraints(constraints(size=1))
    assert one.wait().memory[1] == 5000


def test_must_match_that_does_not_fit_is_an_empty_intersection(wire: Wire) -> None:
    allocator = wire.connect()
    old = allocator.non_shared()
    vmo = old.allocate(size=5000).vmo()
    _, one, other = wire.two()
    wait = other.request_with(constraints(size=5001))
    one.set_constraints({}, must_match=vmo)
    assert other.answer(wait).body == {2: CONSTRAINTS_INTERSECTION_EMPTY}


@pytest.mark.parametrize("what", ["memfd", "file", "socket"])
def test_must_match_that_is_no_sysmem_vmo_fails_the_node(wire: Wire, what: str) -> None:
    _, one, other = wire.two()
    makers: dict[str, Callable[[], Descriptor]] = {
        "memfd": wire.memfd,
        "file": lambda: wire.file(__file__, 0),
        "socket": lambda: wire.pair()[1],
    }
    vmo = makers[what]()
    one.set_constraints(constraints(), must_match=vmo)
    assert_close(one, other)


# AttachLifetimeTracking


def test_an_answer_that_is_due_brings_its_buffers_whoever_leaves(wire: Wire) -> None:
    """The node's own allocation succeeds, so it gets the VMOs, even if another node fails at the same moment."""
    for _ in range(10):
        _, one, other = wire.two()
        wait = one.request_with(constraints())
        other.set_constraints(constraints())
        other.close()
        info = one.wait_answer(wait)
        assert os.pread(info.vmo(0).fileno(), 1, 0) == b"\0"
        info.close()
        one.assert_closes()


def wait_unread(
    wire: Wire, wanted: dict[int, Any]
) -> tuple[Collection, list[int], int, Descriptor]:
    """Return a participant with a full queue whose wait is answered before all others leave.

    Also return its earlier calls, the wait, and the event of the last buffer.
    """
    allocator, one, other = wire.two()
    one.set_constraints(wanted)
    calls = [one.request("Node.Sync") for _ in range(700)]
    wait = one.request_wait()
    one.attach().sync()  # everything is processed
    other.allocate().close()
    gone = other.track_lifetime(0)
    other.sync()
    other.close()
    allocator.sync()
    return one, calls, wait, gone


def test_an_answer_that_is_read_late_brings_its_buffers_whoever_left(wire: Wire) -> None:
    one, calls, wait, gone = wait_unread(wire, constraints())
    assert not gone.is_closed(0.2)
    for call in calls:
        one.answer(call)
    info = one.wait_answer(wait)
    assert os.pread(info.vmo(1).fileno(), 1, 0) == b"\0"
    assert not gone.is_closed(0.2)
    info.close()
    one.close()
    gone.wait_closed()


def test_an_answer_that_brings_no_vmos_keeps_no_memory(wire: Wire) -> None:
    """It keeps none even if it is read late."""
    *_, gone = wait_unread(wire, constraints(cpu=None, usage={1: 1}, camping=0))
    gone.wait_closed()


def test_lifetime_tracking_closes_after_the_last_handle_of_a_buffer(wire: Wire) -> None:
    collection = wire.connect().non_shared()
    collection.set_constraints(constraints(camping=3))
    gone = {remaining: collection.track_lifetime(remaining) for remaining in range(5)}
    info = collection.wait()
    gone[4].wait_closed()
    gone[3].wait_closed()
    collection.sync()
    assert not gone[2].is_closed()
    mapping = info.vmo(0).map()
    collection.release_and_close()
    for index in (0, 1):
        info.vmo(index).close()
    gone[2].wait_closed()
    assert not gone[1].is_closed()
    info.vmo(2).close()
    gone[1].wait_closed()
    assert not gone[0].is_closed()
    mapping.close()
    gone[0].wait_closed()


def test_lifetime_tracking_is_kept_through_release_until_allocation(wire: Wire) -> None:
    _, one, other = wire.two()
    gone = one.track_lifetime(0)
    at_once = one.track_lifetime(5)
    one.set_constraints(constraints(camping=5))
    one.release_and_close()
    other.sync()
    assert not at_once.is_closed()
    info = other.allocate(camping=0)
    at_once.wait_closed()
    assert not gone.is_closed()
    other.close()
    info.close()
    gone.wait_closed()


def test_lifetime_tracking_closes_when_the_allocation_fails(wire: Wire) -> None:
    _, one, other = wire.two()
    gone = one.track_lifetime(0)
    one.set_constraints(only_sizes(1, 10))
    one.sync()
    assert not gone.is_closed()
    other.set_constraints(only_sizes(20, 30))
    gone.wait_closed()


def test_lifetime_tracking_closes_when_the_node_fails_before_allocation(wire: Wire) -> None:
    _, one, other = wire.two()
    gone = one.track_lifetime(0)
    one.sync()
    other.close()
    gone.wait_closed()


def test_lifetime_tracking_outlives_node_and_tree_and_the_memory_lives_on(wire: Wire) -> None:
    collection = wire.connect().non_shared()
    collection.set_constraints(constraints())
    gone = collection.track_lifetime(0)
    info = collection.wait()
    mapping = info.vmo().map()
    collection.close()
    info.close()
    mapping[:5] = b"still"
    assert not gone.is_closed()
    assert mapping[:5] == b"still"
    mapping.close()
    gone.wait_closed()


def test_lifetime_tracking_attached_after_the_allocation_and_the_release_of_others(
    wire: Wire,
) -> None:
    allocator, one, other = wire.two()
    for collection in (one, other):
        collection.set_constraints(constraints())
    info = one.wait()
    one.sync()
    two_left = one.track_lifetime(2)
    two_left.wait_closed()
    last = one.track_lifetime(0)
    one.release_and_close()
    other.release_and_close()
    allocator.sync()
    assert not last.is_closed()
    info.close()
    last.wait_closed()


def test_display_usage_prefers_the_ram_domain(wire: Wire) -> None:
    collection = wire.connect().non_shared()
    usage = {2: CPU_READ_OFTEN | CPU_WRITE_OFTEN, 4: 1}
    assert collection.allocate(usage=usage, memory={6: True}).memory[4] == 1


def test_tokens_hold_up_allocation_until_bound_or_released_and_closed(wire: Wire) -> None:
    allocator, root = wire.root()
    tokens: list[Token] = root.duplicate_sync([0x80000000] * 3)
    top = allocator.bind(root)
    top.set_constraints(constraints())
    wait = top.request_wait()
    tokens[0].release_and_close()
    tokens[1].sync()
    bound = allocator.bind(tokens[1])
    bound.set_constraints(constraints())
    bound.sync()
    assert top.check() == PENDING
    tokens[2].release_and_close()
    assert len(top.wait_answer(wait).buffers) == 2
