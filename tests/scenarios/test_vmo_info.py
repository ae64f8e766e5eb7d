"""GetVmoInfo's six questions and seven answers (`docs/spec/protocol.md`, "Allocator")."""

from __future__ import annotations

import os

import pytest

import sysmem
from sysmem import BufferCollectionConstraints, BufferUsage, Error, SizeU, SysmemError, blocking

from .scenario import (
    ENOUGH,
    VULKAN,
    allocated,
    buffers,
    image,
    images,
    memory,
    root_and_child,
    vmo_of,
)


def assert_nothing_else(found: sysmem.VmoInfo) -> None:
    """Check that only the ids are set."""
    assert found.close_weak_asap is None
    assert found.weak_vmo is None
    assert found.single_buffer_settings is None
    assert found.constraints_ok is None
    assert found.vmo_settings_match is None


def test_only_the_two_numbers_are_set_when_nothing_is_asked(client: blocking.Allocator) -> None:
    with allocated(client, buffers(min_buffer_count=3)) as (collection, info):
        for index in range(3):
            found = client.get_vmo_info(vmo_of(info, index))
            assert found.buffer_collection_id == collection.get_buffer_collection_id()
            assert found.buffer_collection_id == info.buffer_collection_id
            assert found.buffer_index == index
            assert_nothing_else(found)


def test_a_need_that_is_false_is_as_if_unset(client: blocking.Allocator) -> None:
    with allocated(client, buffers()) as (_, info):
        found = client.get_vmo_info(
            vmo_of(info),
            need_weak=False,
            need_single_buffer_settings=False,
            vmo_settings_to_check_ignore_size=True,
        )
        assert_nothing_else(found)


def test_a_descriptor_does_as_a_vmo_and_is_not_consumed(client: blocking.Allocator) -> None:
    with allocated(client, buffers()) as (_, info):
        copy = os.dup(vmo_of(info).fileno())
        found = client.get_vmo_info(vmo=copy)
        os.fstat(copy)
        os.close(copy)
        assert found.buffer_index == 0
        with vmo_of(info).duplicate() as again:
            assert client.get_vmo_info(again).buffer_index == 0
            assert again.size == 4096
        assert client.get_vmo_info(vmo_of(info)).buffer_index == 0


def test_settings_are_those_delivered(client: blocking.Allocator) -> None:
    with allocated(client, images(image())) as (_, info):
        found = client.get_vmo_info(vmo_of(info), need_single_buffer_settings=True)
        assert found.single_buffer_settings == info.settings
        assert found.weak_vmo is None


def test_need_weak_brings_a_weak_handle_and_its_event(client: blocking.Allocator) -> None:
    with allocated(client, buffers()) as (collection, info):
        strong = vmo_of(info)
        found = client.get_vmo_info(strong, need_weak=True)
        assert isinstance(found.weak_vmo, sysmem.Vmo)
        assert isinstance(found.close_weak_asap, sysmem.EventPair)
        assert not found.close_weak_asap.is_closed()
        with found.weak_vmo.map() as mine, strong.map() as theirs:
            theirs[:3] = b"abc"
            assert bytes(mine[:3]) == b"abc"
        # It is set if and only if the handle is weak or need_weak is set.
        again = client.get_vmo_info(found.weak_vmo)
        assert again.close_weak_asap is not None
        assert again.weak_vmo is None
        assert again.buffer_index == 0
        collection.release()
        info.close()
        for event in (found.close_weak_asap, again.close_weak_asap):
            assert event.wait_closed(timeout=ENOUGH)
            event.close()
        found.weak_vmo.close()


@pytest.mark.parametrize(
    ("check", "expected"),
    [
        (BufferCollectionConstraints(), True),
        (images(image()), True),
        (images(image(required_max_size_list=[SizeU(64, 48)])), False),
        (images(image(required_max_size=SizeU(64, 49))), False),
        (images(image(min_size=SizeU(65, 48))), False),
        (images(image(sysmem.PixelFormat.R8G8B8A8)), False),
        (images(image(sysmem.PixelFormat.DO_NOT_CARE)), True),
        (images(image(color_spaces=[sysmem.ColorSpace.DO_NOT_CARE])), True),
        (images(image(max_size=SizeU(100, 100))), False),
        (memory(min_size_bytes=12288), True),
        (memory(min_size_bytes=12289), False),
        (memory(min_size_bytes=1, max_size_bytes=12288), True),
        (memory(min_size_bytes=1, max_size_bytes=12287), False),
        (memory(secure_required=True), False),
        (memory(permitted_heaps=[sysmem.SYSTEM_RAM_HEAP]), True),
        (memory(permitted_heaps=[sysmem.Heap(heap_type="x", id=0)]), False),
        (memory(cpu_domain_supported=False, ram_domain_supported=True), False),
        # Buffer counts are ignored, and so is whether anybody uses the buffers.
        (buffers(min_buffer_count_for_camping=100), True),
        (buffers(min_buffer_count=100), True),
        (buffers(max_buffer_count=1), True),
        (
            BufferCollectionConstraints(
                usage=BufferUsage(none=sysmem.NoneUsage.NONE_USAGE), min_buffer_count=9
            ),
            True,
        ),
        (BufferCollectionConstraints(usage=VULKAN), True),
        # Constraints that are wrong in themselves give false too, not an error.
        (memory(permitted_heaps=[]), False),
        (memory(physically_contiguous_required=True), False),
    ],
    ids=repr,
)
def test_constraints_ok(
    client: blocking.Allocator, check: BufferCollectionConstraints, expected: bool
) -> None:
    with allocated(client, images(image(), min_buffer_count=3)) as (_, info):
        found = client.get_vmo_info(vmo_of(info), constraints_to_check=check)
        assert found.constraints_ok is expected
        assert found.vmo_settings_match is None


def test_constraints_ok_asks_for_every_field_again(client: blocking.Allocator) -> None:
    with allocated(client, buffers(100)) as (_, info):
        vmo = vmo_of(info)

        def ok(table: BufferCollectionConstraints) -> bool | None:
            return client.get_vmo_info(vmo, constraints_to_check=table).constraints_ok

        assert ok(memory(min_size_bytes=100)) is True
        assert ok(memory(min_size_bytes=101)) is False
        # Raw buffers have no image.
        assert ok(images(image())) is False


@pytest.mark.parametrize(
    ("one", "two", "ignore_size", "expected"),
    [
        (buffers(), buffers(), None, True),
        (buffers(), buffers(min_buffer_count=9), None, True),
        (buffers(), buffers(5000), None, False),
        (buffers(), buffers(5000), False, False),
        (buffers(), buffers(5000), True, True),
        (buffers(4000), buffers(4001), None, False),
        (buffers(), memory(physically_contiguous_required=True), True, False),
        (images(image()), images(image()), None, True),
        (images(image()), images(image(max_size=SizeU(99, 99))), None, False),
        (images(image()), images(image(max_size=SizeU(99, 99))), True, False),
        (images(image()), buffers(12288), None, False),
    ],
)
def test_vmo_settings_match(
    client: blocking.Allocator,
    one: BufferCollectionConstraints,
    two: BufferCollectionConstraints,
    ignore_size: bool | None,
    expected: bool,
) -> None:
    with allocated(client, one) as (_, first), allocated(client, two) as (_, second):
        for left, right in ((first, second), (second, first)):
            found = client.get_vmo_info(
                vmo_of(left),
                vmo_settings_to_check=vmo_of(right),
                vmo_settings_to_check_ignore_size=ignore_size,
            )
            assert found.vmo_settings_match is expected
            assert found.constraints_ok is None


def test_a_vmo_matches_itself(client: blocking.Allocator) -> None:
    with allocated(client, images(image(), min_buffer_count=2)) as (_, info):
        for other in (vmo_of(info, 0), vmo_of(info, 1).fileno()):
            found = client.get_vmo_info(vmo_of(info), vmo_settings_to_check=other)
            assert found.vmo_settings_match is True


def test_everything_at_once(client: blocking.Allocator) -> None:
    with allocated(client, images(image())) as (_, info):
        found = client.get_vmo_info(
            vmo_of(info),
            need_weak=True,
            need_single_buffer_settings=True,
            constraints_to_check=BufferCollectionConstraints(),
            vmo_settings_to_check=vmo_of(info),
            vmo_settings_to_check_ignore_size=False,
        )
        assert found.buffer_index == 0
        assert found.single_buffer_settings == info.settings
        assert found.constraints_ok is True
        assert found.vmo_settings_match is True
        assert found.weak_vmo is not None
        assert found.close_weak_asap is not None
        with found.weak_vmo, found.close_weak_asap:
            assert found.weak_vmo.size == 12288


def test_another_daemons_vmo_is_not_found(
    client: blocking.Allocator, allocator: blocking.Allocator
) -> None:
    with allocated(allocator, buffers()) as (_, info):
        with pytest.raises(SysmemError) as raised:
            client.get_vmo_info(vmo_of(info))
        assert raised.value.error is Error.NOT_FOUND
        ours = client.allocate_non_shared_collection()
        # Numbers are unique until the next boot, so the two daemons have no number in common.
        assert ours.get_buffer_collection_id() != info.buffer_collection_id
        ours.close()


def test_must_match_takes_a_descriptor_and_no_constraints(client: blocking.Allocator) -> None:
    with (
        allocated(client, buffers(5000)) as (_, old),
        root_and_child(client) as (one, two),
    ):
        one.set_constraints(must_match_vmo=vmo_of(old).fileno())
        two.set_constraints(buffers(10))
        with one.wait_for_all_buffers_allocated() as info:
            assert info.settings == old.settings
            assert info.buffers is not None
            assert info.buffers[0].vmo is None
