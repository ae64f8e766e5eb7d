"""The end of a buffer, and the clients that are notified of it (`docs/spec/allocation.md`, "Lifetime")."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

import sysmem
from sysmem import blocking

from ..mapping import BareMapping
from .other_process import OtherProcess
from .scenario import ENOUGH, SHORTLY, allocated, buffers, participants, vmo_of


@contextmanager
def tracked(
    client: blocking.Allocator,
) -> Iterator[tuple[blocking.BufferCollection, sysmem.BufferCollectionInfo, sysmem.EventPair]]:
    """A collection with one participant, its buffers, and the event of their end."""
    with allocated(client) as (collection, info), collection.attach_lifetime_tracking() as event:
        collection.sync()
        yield collection, info, event


def test_nothing_closes_while_the_collection_lives(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as collection:
        before = collection.attach_lifetime_tracking()
        collection.set_constraints(buffers(min_buffer_count=2))
        collection.wait_for_all_buffers_allocated().close()
        after = collection.attach_lifetime_tracking(buffers_remaining=0)
        collection.sync()
        with before, after:
            assert before.wait_closed(timeout=SHORTLY) is False
            assert after.wait_closed(timeout=0) is False
            assert before.is_closed() is False
            collection.release()
            assert before.wait_closed(timeout=ENOUGH) is True
            assert after.wait_closed() is True
            assert after.is_closed() is True


def test_weak_handles_are_holders_too(client: blocking.Allocator) -> None:
    with tracked(client) as (collection, info, event):
        found = client.get_vmo_info(vmo_of(info), need_weak=True)
        assert found.weak_vmo is not None
        assert found.close_weak_asap is not None
        info.close()
        collection.release()
        assert found.close_weak_asap.wait_closed(timeout=ENOUGH)
        assert event.wait_closed(timeout=SHORTLY) is False
        found.weak_vmo.close()
        assert event.wait_closed(timeout=ENOUGH)
        found.close_weak_asap.close()


@pytest.mark.parametrize(
    "held", ["descriptor", "duplicate", "view", "mapping alone", "read-only mapping alone"]
)
def test_any_holder_in_this_process_counts(client: blocking.Allocator, held: str) -> None:
    with tracked(client) as (collection, info, event):
        collection.release()
        if held == "descriptor":
            copy = os.dup(vmo_of(info).fileno())
            info.close()
            assert event.wait_closed(timeout=SHORTLY) is False
            os.close(copy)
        elif held == "duplicate":
            with vmo_of(info).duplicate():
                info.close()
                assert event.wait_closed(timeout=SHORTLY) is False
        elif held == "view":
            with vmo_of(info).map() as view:
                info.close()
                assert event.wait_closed(timeout=SHORTLY) is False
                assert view[0] == 0
        else:
            write = held == "mapping alone"
            with BareMapping(vmo_of(info).fileno(), write=write) as mapping:
                info.close()
                assert event.wait_closed(timeout=SHORTLY) is False
                assert mapping[:1] == b"\0"
        assert event.wait_closed(timeout=ENOUGH)


def test_a_reopened_descriptor_counts(client: blocking.Allocator) -> None:
    # A holder with the daemon's uid may reopen its descriptor. The result is a handle as well.
    with tracked(client) as (collection, info, event):
        collection.release()
        again = os.open(f"/proc/self/fd/{vmo_of(info).fileno()}", os.O_RDONLY)
        info.close()
        assert event.wait_closed(timeout=SHORTLY) is False
        os.close(again)
        assert event.wait_closed(timeout=ENOUGH)


@pytest.mark.parametrize("how", ["close", "unmap", "kill"])
def test_third_processes_count(client: blocking.Allocator, how: str) -> None:
    with (
        OtherProcess() as one,
        OtherProcess() as two,
        tracked(client) as (collection, info, event),
    ):
        with vmo_of(info).map() as view:
            view[:2] = b"hi"
        collection.release()
        for other in (one, two):
            if how == "unmap":
                assert other.tell("map read", vmo_of(info).fileno()) == "done"
                assert other.tell("close") == "done"
                assert other.tell("read 2") == "hi"
            else:
                assert other.tell("duplicate", vmo_of(info).fileno()) == "done"
        info.close()
        for other in (one, two):
            assert event.wait_closed(timeout=SHORTLY) is False
            if how == "kill":
                other.kill()
            else:
                other.tell(how)
        assert event.wait_closed(timeout=ENOUGH)


def test_an_attached_nodes_tracking_waits_for_its_own_allocation(
    client: blocking.Allocator,
) -> None:
    with client.allocate_non_shared_collection() as collection:
        collection.set_constraints(buffers(min_buffer_count=2))
        collection.wait_for_all_buffers_allocated().close()
        token = collection.attach_token()
        token.sync()
        with (
            client.bind_shared_collection(token) as attached,
            attached.attach_lifetime_tracking(2) as event,
        ):
            assert event.wait_closed(timeout=SHORTLY) is False
            attached.set_constraints(buffers())
            assert event.wait_closed(timeout=ENOUGH)


def test_every_node_may_track(client: blocking.Allocator) -> None:
    with participants(client, 2) as (gate, collections):
        events = [c.attach_lifetime_tracking() for c in collections for _ in range(3)]
        for collection in collections:
            collection.set_constraints(buffers())
            collection.sync()
        gate.release()
        infos = [c.wait_for_all_buffers_allocated(timeout=ENOUGH) for c in collections]
        for collection in collections:
            collection.release()
        infos[0].close()
        assert not any(event.is_closed() for event in events)
        infos[1].close()
        for event in events:
            assert event.wait_closed(timeout=ENOUGH)
            event.close()


def test_a_copy_of_the_event_keeps_it_open_for_nobody(client: blocking.Allocator) -> None:
    # The client's close of its end of an eventpair has no effect in the daemon.
    with client.allocate_non_shared_collection() as collection:
        collection.attach_lifetime_tracking().close()
        collection.attach_node_tracking().close()
        collection.set_constraints(buffers())
        collection.wait_for_all_buffers_allocated().close()
        collection.sync()


def test_node_tracking_closes_with_the_tree(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as root:
        group = root.create_buffer_collection_token_group()
        events = [root.attach_node_tracking(), group.attach_node_tracking()]
        group.sync()
        assert not any(event.is_closed() for event in events)
        group.close()
        for event in events:
            assert event.wait_closed(timeout=ENOUGH)
            event.close()
