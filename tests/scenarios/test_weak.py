"""Who keeps buffers alive, and how the others learn that nobody does any more (`docs/spec/allocation.md`)."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime, timedelta

import pytest

import sysmem
from sysmem import PeerClosedError, blocking
from sysmem.testing import Sysmemd

from .other_process import OtherProcess
from .scenario import (
    ENOUGH,
    SHORTLY,
    buffers,
    event_of,
    eventually,
    participants,
    root_and_child,
    vmo_of,
)


def strong_and_weak(
    client: blocking.Allocator, count: int = 2
) -> AbstractContextManager[tuple[blocking.BufferCollection, blocking.BufferCollection]]:
    """The collections of two participants with buffers. The second participant is weak."""
    return root_and_child(client, weak=True, table=buffers(min_buffer_count=count))


def test_only_weak_nodes_get_the_event(client: blocking.Allocator) -> None:
    with (
        strong_and_weak(client) as (strong, weak),
        strong.wait_for_all_buffers_allocated() as theirs,
        weak.wait_for_all_buffers_allocated() as mine,
    ):
        assert theirs.buffers is not None
        assert mine.buffers is not None
        assert all(buffer.close_weak_asap is None for buffer in theirs.buffers)
        for buffer in mine.buffers:
            assert buffer.vmo is not None
            assert buffer.close_weak_asap is not None
            assert buffer.close_weak_asap.is_closed() is False
            assert buffer.close_weak_asap.wait_closed(timeout=0) is False


def test_duplicates_and_mappings_are_strong_too(client: blocking.Allocator) -> None:
    with strong_and_weak(client) as (strong, weak):
        theirs, mine = (node.wait_for_all_buffers_allocated() for node in (strong, weak))
        copy = vmo_of(theirs, 0).duplicate()
        descriptor = os.dup(vmo_of(theirs, 0).fileno())
        with vmo_of(theirs, 0).map() as view:
            strong.release()
            theirs.close()
            assert event_of(mine, 1).wait_closed(timeout=ENOUGH)
            copy.close()
            assert not event_of(mine, 0).wait_closed(timeout=SHORTLY)
            os.close(descriptor)
            assert not event_of(mine, 0).wait_closed(timeout=SHORTLY)
            view[0] = 1
        assert event_of(mine, 0).wait_closed(timeout=ENOUGH)
        mine.close()


def test_a_third_process_holds_and_is_killed(client: blocking.Allocator) -> None:
    with strong_and_weak(client) as (strong, weak), OtherProcess() as other:
        theirs, mine = (node.wait_for_all_buffers_allocated() for node in (strong, weak))
        assert other.tell("keep", vmo_of(theirs, 0).fileno()) == "done"
        assert other.tell("map write", vmo_of(theirs, 1).fileno()) == "done"
        strong.release()
        theirs.close()
        assert not event_of(mine, 0).wait_closed(timeout=SHORTLY)
        assert other.tell("close") == "done"  # only buffer 1 is mapped
        assert event_of(mine, 0).wait_closed(timeout=ENOUGH)
        assert not event_of(mine, 1).wait_closed(timeout=SHORTLY)
        other.kill()
        assert event_of(mine, 1).wait_closed(timeout=ENOUGH)
        assert weak.wait_closed(timeout=ENOUGH)
        mine.close()


def test_weak_handles_passed_on_stay_weak(client: blocking.Allocator) -> None:
    with strong_and_weak(client) as (strong, weak), OtherProcess() as other:
        mine = weak.wait_for_all_buffers_allocated()
        for index in (0, 1):
            other.tell("map read", vmo_of(mine, index).fileno())
        strong.release()
        for index in (0, 1):
            assert event_of(mine, index).wait_closed(timeout=ENOUGH)
        mine.close()


def _weak_collection(
    client: blocking.Allocator, stack: ExitStack, how: str
) -> tuple[blocking.BufferCollection, blocking.BufferCollection]:
    """A strong root and a node below it that is weak by inheritance, with SetWeakOk as given."""
    root = stack.enter_context(client.allocate_shared_collection())
    if how == "root, children too":
        root.set_weak_ok(for_child_nodes_also=True)
        root.set_weak_ok(for_child_nodes_also=False)  # the statement can't be taken back
    elif how == "root alone":
        root.set_weak_ok()
    middle = stack.enter_context(root.duplicate())
    if how == "root, too late":
        root.set_weak_ok(for_child_nodes_also=True)
    root.sync()
    middle.set_weak()
    if how == "parent, children too":
        middle.set_weak_ok(for_child_nodes_also=True)
    leaf = stack.enter_context(middle.duplicate())
    middle.sync()
    if how == "own":
        leaf.set_weak_ok(for_child_nodes_also=None)
    if how == "own, by SetWeak":
        leaf.set_weak()
    leaf.sync()
    bound = stack.enter_context(client.bind_shared_collection(leaf))
    if how == "own, bound":
        bound.set_weak_ok()
    middle.release()
    return stack.enter_context(client.bind_shared_collection(root)), bound


@pytest.mark.parametrize(
    "how", ["own", "own, bound", "own, by SetWeak", "root, children too", "parent, children too"]
)
def test_weak_ok_is_needed_and_may_be_anothers(client: blocking.Allocator, how: str) -> None:
    with ExitStack() as stack:
        root, leaf = _weak_collection(client, stack, how)
        root.set_constraints(buffers())
        leaf.set_constraints(buffers())
        with leaf.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
            assert not event_of(info).is_closed()
        root.sync()


@pytest.mark.parametrize("how", ["nobody", "root alone", "root, too late"])
def test_without_weak_ok_waiting_fails_the_node_at_once(
    client: blocking.Allocator, how: str
) -> None:
    with ExitStack() as stack:
        root, leaf = _weak_collection(client, stack, how)
        leaf.set_constraints(buffers())
        leaf.sync()
        with pytest.raises(PeerClosedError):
            leaf.wait_for_all_buffers_allocated(timeout=ENOUGH)  # the root is not even ready
        assert root.wait_closed(timeout=ENOUGH)


def test_who_does_not_wait_needs_no_weak_ok(client: blocking.Allocator) -> None:
    with ExitStack() as stack:
        root, leaf = _weak_collection(client, stack, "nobody")
        leaf.set_constraints(buffers())
        leaf.sync()
        root.set_constraints(buffers())
        root.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
        leaf.check_all_buffers_allocated()


def test_a_weak_group_makes_weak_children(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as root:
        group = root.create_buffer_collection_token_group()
        group.set_weak()
        group.set_weak_ok(True)
        (token,) = group.create_children_sync([sysmem.Rights.SAME_RIGHTS])
        group.all_children_present()
        group.sync()
        with (
            group,
            client.bind_shared_collection(token) as weak,
            client.bind_shared_collection(root) as strong,
        ):
            weak.set_constraints(buffers())
            strong.set_constraints(buffers())
            with weak.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
                assert not event_of(info).is_closed()


def test_buffers_of_128_weak_participants_arrive_whole(client: blocking.Allocator) -> None:
    # 128 buffers and 128 events do not fit into one datagram.
    with strong_and_weak(client, 128) as (_, weak), weak.wait_for_all_buffers_allocated() as mine:
        assert mine.buffers is not None
        assert len(mine.buffers) == 128
        for index in (0, 63, 127):
            found = client.get_vmo_info(vmo_of(mine, index))
            assert found.buffer_index == index
            assert found.close_weak_asap is not None
            found.close_weak_asap.close()
            assert not event_of(mine, index).is_closed()


def test_weak_handles_held_on_to_are_logged(client: blocking.Allocator, daemon: Sysmemd) -> None:
    with participants(client, 2) as (gate, (strong, weak)):
        weak.set_weak()
        weak.set_debug_client_info("holds-on", 99)
        gate.set_name(1, "precious")
        for collection in (strong, weak):
            collection.set_constraints(buffers())
            collection.sync()
        gate.release()
        with weak.wait_for_all_buffers_allocated(timeout=ENOUGH) as mine:
            before = datetime.now(UTC)
            strong.release()
            assert event_of(mine).wait_closed(timeout=ENOUGH)
            wanted = (str(mine.buffer_collection_id), "precious", "holds-on", "99")

            def complaints() -> list[str]:
                return [
                    line
                    for line in daemon.log.splitlines()
                    if "weak" in line and all(word in line for word in wanted)
                ]

            eventually(lambda: len(complaints()) == 2)
            for line in complaints():
                said = datetime.fromisoformat(line.split()[0])
                # 5 s, less the possible adjustment of the wall clock meanwhile.
                assert said - before > timedelta(seconds=4.9)
