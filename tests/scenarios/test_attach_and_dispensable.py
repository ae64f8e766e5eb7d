"""Participants that attach later, and the limits of failure propagation (`docs/spec/allocation.md`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

import sysmem
from sysmem import Error, PeerClosedError, SysmemError, blocking
from sysmem.testing import Sysmemd

from .scenario import (
    ENOUGH,
    SHORTLY,
    buffers,
    eventually,
    image,
    images,
    memory,
    vmo_of,
)


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
