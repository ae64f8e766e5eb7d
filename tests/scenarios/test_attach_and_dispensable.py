"""Participants that attach later, and the limits of failure propagation (`docs/spec/allocation.md`)."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

import sysmem
from sysmem import Error, PeerClosedError, SysmemError, blocking
from sysmem.testing import Sysmemd

from .scenario import (
    ENOUGH,
    SHORTLY,
    begin_wait,
    buffers,
    eventually,
    image,
    images,
    memory,
    participants,
    vmo_of,
)

NONE = buffers(min_buffer_count_for_camping=0)


@contextmanager
def allocated(
    client: blocking.Allocator, table: sysmem.BufferCollectionConstraints | None = None
) -> Iterator[blocking.BufferCollection]:
    """A collection of three buffers (or `count`) whose participant camps on one."""
    with client.allocate_non_shared_collection() as collection:
        collection.set_constraints(table or buffers(min_buffer_count=3))
        collection.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
        yield collection


@contextmanager
def attached_to(
    client: blocking.Allocator, parent: blocking.BufferCollection
) -> Iterator[blocking.BufferCollection]:
    """Return the collection of a token that was attached to another collection."""
    token = parent.attach_token()
    token.sync()
    with client.bind_shared_collection(token) as collection:
        yield collection


def join(
    client: blocking.Allocator,
    token: blocking.BufferCollectionToken,
    table: sysmem.BufferCollectionConstraints | None,
) -> sysmem.BufferCollectionInfo | int | None:
    """Turn an attached token in. Return the buffers, the error, or None for peer-closed."""
    token.sync()
    with ExitStack() as stack:
        collection = stack.enter_context(client.bind_shared_collection(token))
        child = collection.attach_token()  # does not delay the parent's allocation
        child.close()
        collection.set_constraints(table)
        try:
            return collection.wait_for_all_buffers_allocated(timeout=ENOUGH)
        except SysmemError as error:
            return error.error
        except PeerClosedError:
            return None
        finally:
            if not collection.wait_closed(timeout=0):
                collection.release()


def joins(
    client: blocking.Allocator,
    parent: blocking.BufferCollection,
    table: sysmem.BufferCollectionConstraints | None,
) -> bool:
    """Return whether a participant with these constraints gets the existing buffers."""
    answer = join(client, parent.attach_token(), table)
    if isinstance(answer, sysmem.BufferCollectionInfo):
        answer.close()
        return True
    assert answer in (None, Error.CONSTRAINTS_INTERSECTION_EMPTY)
    return False


def test_an_attached_participant_gets_the_same_buffers(client: blocking.Allocator) -> None:
    with allocated(client) as parent, parent.wait_for_all_buffers_allocated() as mine:
        theirs = join(client, parent.attach_token(), buffers())
        assert isinstance(theirs, sysmem.BufferCollectionInfo)
        with theirs:
            assert theirs.settings == mine.settings
            assert theirs.buffer_collection_id == mine.buffer_collection_id
            with vmo_of(mine, 2).map() as out, vmo_of(theirs, 2).map() as into:
                out[:2] = b"ok"
                assert bytes(into[:2]) == b"ok"


@pytest.mark.parametrize(
    ("table", "fits"),
    [
        (buffers(), True),
        (None, True),
        (buffers(min_buffer_count=3), True),
        (buffers(min_buffer_count=4), False),
        (buffers(max_buffer_count=3), True),
        (buffers(max_buffer_count=2), False),
        (buffers(min_buffer_count_for_camping=2), True),
        (buffers(min_buffer_count_for_camping=3), False),
        (buffers(min_buffer_count_for_dedicated_slack=1), True),
        (buffers(min_buffer_count_for_dedicated_slack=2), False),
        (memory(min_size_bytes=4096), True),
        (memory(min_size_bytes=4097), False),
        (memory(min_size_bytes=1, max_size_bytes=4096), True),
        (memory(min_size_bytes=1, max_size_bytes=4095), False),
        (memory(physically_contiguous_required=True), False),
        (memory(permitted_heaps=[sysmem.SYSTEM_RAM_HEAP]), True),
        (memory(permitted_heaps=[sysmem.Heap(heap_type="x", id=0)]), False),
        (memory(ram_domain_supported=True), True),
        (memory(cpu_domain_supported=False, ram_domain_supported=True), False),
        (images(image()), False),
        (buffers(usage=sysmem.BufferUsage(display=sysmem.DisplayUsage.LAYER)), True),
    ],
    ids=repr,
)
def test_what_exists_is_not_changed_for_an_attached_participant(
    client: blocking.Allocator, table: sysmem.BufferCollectionConstraints | None, fits: bool
) -> None:
    with allocated(client) as parent:
        assert joins(client, parent, table) is fits
        parent.sync()  # either way


def test_an_attached_failure_is_told_to_who_waits(client: blocking.Allocator) -> None:
    with allocated(client) as parent:
        token = parent.attach_token()
        other = token.duplicate()
        token.sync()
        with (
            client.bind_shared_collection(token) as one,
            client.bind_shared_collection(other) as two,
        ):
            one.set_constraints(buffers())
            wait = begin_wait(one)
            two.set_constraints(buffers(9999))
            with pytest.raises(SysmemError) as raised:
                wait.result(ENOUGH)
            assert raised.value.error is Error.CONSTRAINTS_INTERSECTION_EMPTY
            assert one.wait_closed(timeout=ENOUGH)
            assert two.wait_closed(timeout=ENOUGH)
        parent.sync()


@pytest.mark.parametrize(
    ("entry", "fits"),
    [
        (image(), True),
        (image(sysmem.PixelFormat.DO_NOT_CARE), True),
        (image(color_spaces=[sysmem.ColorSpace.DO_NOT_CARE]), True),
        (image(sysmem.PixelFormat.NV12), False),
        (image(max_size=sysmem.SizeU(64, 48)), False),
        (image(bytes_per_row_divisor=256), False),
        (image(bytes_per_row_divisor=2), True),
        (image(required_max_size_list=[sysmem.SizeU(100, 60)]), True),
        (image(required_max_size_list=[sysmem.SizeU(70, 80)]), False),
        (image(required_max_size_list=[sysmem.SizeU(64, 48)]), True),
        (image(is_alpha_present=True), False),
    ],
    ids=repr,
)
def test_image_settings_that_exist_are_not_changed(
    client: blocking.Allocator, entry: sysmem.ImageFormatConstraints, fits: bool
) -> None:
    existing = images(
        image(required_max_size_list=[sysmem.SizeU(100, 60), sysmem.SizeU(60, 100)]),
        min_buffer_count=3,
    )
    with allocated(client, existing) as parent:
        assert joins(client, parent, images(entry)) is fits
        parent.sync()


def test_padding_that_exists_does_not_bound_what_is_attached(client: blocking.Allocator) -> None:
    existing = images(image(pad_beyond_image_size_bytes=5000), min_buffer_count=2)
    with allocated(client, existing) as parent:
        answer = join(client, parent.attach_token(), images(image()))
        assert isinstance(answer, sysmem.BufferCollectionInfo)
        with answer:
            assert answer.settings is not None
            assert answer.settings.buffer_settings is not None
            assert answer.settings.buffer_settings.size_bytes == 12288
            assert answer.settings.buffer_settings.raw_vmo_size == 20480


def test_camping_counts_are_first_come_first_served_and_become_free(
    client: blocking.Allocator,
) -> None:
    with allocated(client) as parent:  # three buffers, one of which is camped on
        two = buffers(min_buffer_count_for_camping=2)
        with attached_to(client, parent) as first:
            first.set_constraints(two)
            first.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
            assert not joins(client, parent, buffers())
            with first.attach_node_tracking() as tracking:
                first.sync()
                first.close()
                assert tracking.wait_closed(timeout=ENOUGH)
        assert joins(client, parent, two)


def test_attached_before_allocation_waits_for_its_parent(client: blocking.Allocator) -> None:
    with participants(client, 1) as (gate, (parent,)), attached_to(client, parent) as attached:
        attached.set_constraints(buffers(1))
        with pytest.raises(SysmemError) as raised:
            attached.check_all_buffers_allocated()
        assert raised.value.error is Error.PENDING
        parent.set_constraints(buffers(min_buffer_count=2))
        parent.sync()
        gate.release()
        parent.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
        attached.wait_for_all_buffers_allocated(timeout=ENOUGH).close()


def test_an_attached_token_does_not_hold_its_parent_back(client: blocking.Allocator) -> None:
    with client.allocate_non_shared_collection() as parent, parent.attach_token() as attached:
        parent.set_constraints(buffers())
        parent.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
        attached.sync()


def test_the_roots_failure_is_told_to_attached_ones_that_wait(client: blocking.Allocator) -> None:
    with participants(client, 1) as (gate, (parent,)), attached_to(client, parent) as attached:
        attached.set_constraints(buffers())
        wait = begin_wait(attached)
        parent.set_constraints(buffers(0))
        parent.sync()
        gate.release()
        with pytest.raises(SysmemError) as raised:
            wait.result(ENOUGH)
        assert raised.value.error is Error.CONSTRAINTS_INTERSECTION_EMPTY
        assert attached.wait_closed(timeout=ENOUGH)


def test_attached_under_attached_waits_for_the_one_above(client: blocking.Allocator) -> None:
    with (
        allocated(client) as parent,
        attached_to(client, parent) as middle,
        attached_to(client, middle) as inner,
    ):
        inner.set_constraints(NONE)
        with pytest.raises(SysmemError) as raised:
            inner.check_all_buffers_allocated()
        assert raised.value.error is Error.PENDING
        middle.set_constraints(buffers())
        middle.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
        inner.wait_for_all_buffers_allocated(timeout=ENOUGH).close()


def test_an_attached_failure_stops_at_the_attached_node(client: blocking.Allocator) -> None:
    for bind in (False, True):
        with allocated(client) as parent:
            token = parent.attach_token()
            child = token.duplicate()
            token.sync()
            if bind:
                with client.bind_shared_collection(child) as bound:
                    bound.sync()
            else:
                child.close()
            assert token.wait_closed(timeout=ENOUGH)
            token.close()
            parent.sync()
            assert parent.wait_closed(timeout=0) is False


def test_a_parents_failure_reaches_attached_ones(client: blocking.Allocator) -> None:
    with allocated(client) as parent:
        token = parent.attach_token()
        token.sync()
        parent.close()
        assert token.wait_closed(timeout=ENOUGH)
        token.close()


def test_attach_on_a_weak_collection_fails_it(client: blocking.Allocator) -> None:
    with participants(client, 2) as (gate, (one, two)):
        one.set_weak()
        token = one.attach_token()
        for node in (token, one, two, gate):
            assert node.wait_closed(timeout=ENOUGH)
        token.close()


def test_the_default_debug_name_of_an_attached_token(
    client: blocking.Allocator, daemon: Sysmemd
) -> None:
    client.set_debug_client_info("attacher", 1)
    with allocated(client) as parent, parent.attach_token() as token:
        token.set_verbose_logging()
        child = token.duplicate()
        token.sync()
        child.close()
        assert token.wait_closed(timeout=ENOUGH)
        eventually(lambda: "attacher then AttachToken()" in daemon.log)


# Dispensable


@contextmanager
def dispensable(
    client: blocking.Allocator, table: sysmem.BufferCollectionConstraints | None = None
) -> Iterator[list[blocking.BufferCollection]]:
    """The collections of a root, its dispensable child, and an ordinary child of that.

    With `table`, all set constraints.
    """
    with ExitStack() as stack:
        root = stack.enter_context(client.allocate_shared_collection())
        middle = stack.enter_context(root.duplicate())
        middle.set_dispensable()
        middle.set_dispensable()
        leaf = stack.enter_context(middle.duplicate())
        root.sync()
        middle.sync()
        bound = [
            stack.enter_context(client.bind_shared_collection(t)) for t in (root, middle, leaf)
        ]
        for collection in bound:
            collection.sync()
        if table is not None:
            for collection in bound:
                collection.set_constraints(table)
            for collection in bound:
                collection.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
        yield bound


def test_a_dispensable_nodes_failure_before_allocation_reaches_its_parent(
    client: blocking.Allocator,
) -> None:
    with dispensable(client) as nodes:
        nodes[1].close()
        assert nodes[0].wait_closed(timeout=ENOUGH)
        assert nodes[2].wait_closed(timeout=ENOUGH)


@pytest.mark.parametrize("which", [1, 2])
def test_a_dispensable_nodes_failure_after_allocation_stops_there(
    client: blocking.Allocator, which: int
) -> None:
    with dispensable(client, buffers()) as nodes:
        nodes[which].close()
        for node in nodes[1:]:
            assert node is nodes[which] or node.wait_closed(timeout=ENOUGH)
        nodes[0].sync()
        nodes[0].check_all_buffers_allocated()
        # A second instance of the participant replaces the first.
        assert joins(client, nodes[0], buffers())


def test_the_parents_failure_reaches_dispensable_ones(client: blocking.Allocator) -> None:
    with dispensable(client, buffers()) as nodes:
        nodes[0].close()
        assert nodes[1].wait_closed(timeout=ENOUGH)
        assert nodes[2].wait_closed(timeout=ENOUGH)


def test_an_ordinary_childs_failure_after_allocation_fails_everything(
    client: blocking.Allocator,
) -> None:
    with participants(client, 2) as (gate, (one, two)):
        one.set_constraints(buffers())
        two.set_constraints(buffers())
        one.sync()
        two.sync()
        gate.release()
        with one.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
            two.close()
            assert one.wait_closed(timeout=ENOUGH)
            with vmo_of(info).map() as view:  # the memory stays as long as its handles
                view[0] = 1


def test_attached_tokens_stay_attached_whatever_set_dispensable_says(
    client: blocking.Allocator,
) -> None:
    with allocated(client) as parent:
        token = parent.attach_token()
        token.set_dispensable()
        token.sync()
        token.close()
        parent.sync()
        with parent.attach_token() as other, other.attach_node_tracking() as tracking:
            assert tracking.wait_closed(timeout=0) is False
        parent.sync()
        assert parent.wait_closed(timeout=0) is False


def test_release_keeps_the_constraints_and_the_others(client: blocking.Allocator) -> None:
    with participants(client, 2) as (gate, (one, two)):
        one.set_constraints(buffers(5000))
        one.release()
        two.set_constraints(buffers(10))
        two.sync()
        gate.release()
        with two.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
            assert info.settings is not None
            assert info.settings.buffer_settings is not None
            assert info.settings.buffer_settings.size_bytes == 5000
            assert info.buffers is not None
            assert len(info.buffers) == 2


def test_release_before_constraints_contributes_none(client: blocking.Allocator) -> None:
    with participants(client, 2) as (gate, (one, two)):
        one.release()
        two.set_constraints(buffers(10))
        two.sync()
        gate.release()
        with two.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
            assert info.buffers is not None
            assert len(info.buffers) == 1


def test_children_of_a_released_node_stay(client: blocking.Allocator) -> None:
    with client.allocate_shared_collection() as root:
        child = root.duplicate()
        root.sync()
        root.release()
        grandchild = child.duplicate()
        child.sync()
        with (
            client.bind_shared_collection(child) as one,
            client.bind_shared_collection(grandchild) as two,
        ):
            one.set_constraints(buffers())
            two.set_constraints(buffers())
            one.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
            two.wait_for_all_buffers_allocated(timeout=ENOUGH).close()


def test_node_tracking_waits_for_all_children(client: blocking.Allocator) -> None:
    with allocated(client) as parent:
        token = parent.attach_token()
        child = token.duplicate()
        token.sync()
        with token.attach_node_tracking() as tracking:
            with client.bind_shared_collection(token) as bound:
                bound.sync()
                assert tracking.wait_closed(timeout=0) is False  # it survives the turn-in
                bound.release()
            assert tracking.wait_closed(timeout=SHORTLY) is False  # the orphan has a child
            child.close()
            assert tracking.wait_closed(timeout=ENOUGH)
        parent.sync()


def test_attached_participants_keep_the_collection_when_all_others_are_released(
    client: blocking.Allocator,
) -> None:
    with (
        allocated(client) as parent,
        attached_to(client, parent) as attached,
        attached.attach_lifetime_tracking() as lifetime,
    ):
        attached.set_constraints(buffers())
        attached.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
        parent.release()
        assert attached.wait_closed(timeout=SHORTLY) is False
        attached.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
        assert joins(client, attached, buffers())
        assert lifetime.is_closed() is False
        attached.release()
        assert lifetime.wait_closed(timeout=ENOUGH)


def test_an_attached_group_selects_what_fits_what_exists(client: blocking.Allocator) -> None:
    with allocated(client) as parent:
        token = parent.attach_token()
        group = token.create_buffer_collection_token_group()
        tokens = group.create_children_sync([sysmem.Rights.SAME_RIGHTS] * 3)
        group.all_children_present()
        group.sync()
        with ExitStack() as stack:
            stack.enter_context(group)
            children = [stack.enter_context(client.bind_shared_collection(t)) for t in tokens]
            top = stack.enter_context(client.bind_shared_collection(token))
            tables = (buffers(9999), buffers(), buffers())
            for child, table in zip(children, tables, strict=True):
                child.set_constraints(table)
            top.set_constraints(NONE)
            children[1].wait_for_all_buffers_allocated(timeout=ENOUGH).close()
            top.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
            assert children[0].wait_closed(timeout=ENOUGH)
            assert children[2].wait_closed(timeout=ENOUGH)
            group.sync()
        parent.sync()


def test_a_failed_attached_allocation_closes_its_lifetime_tracking(
    client: blocking.Allocator,
) -> None:
    with allocated(client) as parent:
        with (
            attached_to(client, parent) as attached,
            attached.attach_lifetime_tracking() as lifetime,
            attached.attach_node_tracking() as gone,
        ):
            attached.sync()
            assert lifetime.wait_closed(timeout=0) is False
            attached.set_constraints(buffers(9999))
            assert lifetime.wait_closed(timeout=ENOUGH)
            assert gone.wait_closed(timeout=ENOUGH)
        parent.sync()


def test_contiguity_that_exists_is_pinned(client: blocking.Allocator) -> None:
    existing = memory(physically_contiguous_required=True, min_physical_base_alignment=4096)
    existing.min_buffer_count = 3
    with allocated(client, existing) as parent:
        for table in (buffers(), memory(physically_contiguous_required=True)):
            answer = join(client, parent.attach_token(), table)
            assert isinstance(answer, sysmem.BufferCollectionInfo)
            with answer:
                assert answer.settings is not None
                assert answer.settings.buffer_settings is not None
                assert answer.settings.buffer_settings.is_physically_contiguous is True


def test_counts_of_orphans_stay_reserved_until_their_node_leaves(
    client: blocking.Allocator,
) -> None:
    # Three buffers, one of which is camped on. An attached participant camps on two and is released. Its failure domain
    # has no client left, so its node leaves, and the two buffers are free again.
    with allocated(client) as parent:
        two = buffers(min_buffer_count_for_camping=2)
        with attached_to(client, parent) as attached:
            attached.set_constraints(two)
            attached.wait_for_all_buffers_allocated(timeout=ENOUGH).close()
            with attached.attach_node_tracking() as gone:
                child = attached.attach_token()
                attached.sync()
                attached.release()
                # The orphan stays as long as a client below it is connected.
                assert gone.wait_closed(timeout=SHORTLY) is False
                assert not joins(client, parent, two)
                child.release()
                assert gone.wait_closed(timeout=ENOUGH)
        assert joins(client, parent, two)


def test_an_attached_participant_may_be_weak(client: blocking.Allocator) -> None:
    with allocated(client) as parent:
        token = parent.attach_token()
        token.set_weak()
        token.sync()
        with client.bind_shared_collection(token) as weak:
            weak.set_constraints(buffers())
            with weak.wait_for_all_buffers_allocated(timeout=ENOUGH) as info:
                assert info.buffers is not None
                events = [buffer.close_weak_asap for buffer in info.buffers]
                parent.release()
                for event in events:
                    assert event is not None
                    assert event.wait_closed(timeout=ENOUGH)
                assert weak.wait_closed(timeout=ENOUGH)


def test_messages_after_release_fail_the_node(client: blocking.Allocator) -> None:
    with participants(client, 2) as (gate, (one, two)):
        copy = blocking.BufferCollection.from_fd(os.dup(one.fileno()))
        one.release()
        with copy:
            # After Release the daemon closes the server end. It still notices a late message.
            assert copy.wait_closed(timeout=ENOUGH)
            with socket.socket(fileno=os.dup(copy.fileno())) as raw:
                raw.send(bytes.fromhex("0000000002008001") + SET_VERBOSE_LOGGING)
            assert two.wait_closed(timeout=ENOUGH)
            assert gate.wait_closed(timeout=ENOUGH)


SET_VERBOSE_LOGGING = 0x5209C77415B4DFAD.to_bytes(8, "little")


def test_an_end_shut_down_without_release_is_a_failure(client: blocking.Allocator) -> None:
    with participants(client, 2) as (_, (one, two)):
        with socket.socket(fileno=os.dup(one.fileno())) as raw:
            raw.shutdown(socket.SHUT_WR)
        assert one.wait_closed(timeout=ENOUGH)
        assert two.wait_closed(timeout=ENOUGH)
