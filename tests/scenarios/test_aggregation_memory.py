"""Raw buffers: counts, sizes, usage, domains and heaps (`docs/spec/constraints.md`, sections 0 to 5)."""

from __future__ import annotations

from typing import Any

import pytest

import sysmem
from sysmem import (
    BufferMemoryConstraints,
    BufferMemorySettings,
    BufferUsage,
    CoherencyDomain,
    CpuUsage,
    DisplayUsage,
    Heap,
    NoneUsage,
    SingleBufferSettings,
    VideoUsage,
    VulkanUsage,
    blocking,
)

from .scenario import (
    VULKAN,
    buffer_settings,
    buffers,
    count,
    memory,
    outcome,
    refused,
    settings,
)

NO_CPU = BufferUsage(video=VideoUsage.HW_DECODER)


def test_every_field_of_raw_settings_is_set_and_false_is_false(client: blocking.Allocator) -> None:
    assert settings(client, buffers(5000)) == SingleBufferSettings(
        buffer_settings=BufferMemorySettings(
            size_bytes=5000,
            is_physically_contiguous=False,
            is_secure=False,
            coherency_domain=CoherencyDomain.CPU,
            heap=sysmem.SYSTEM_RAM_HEAP,
            raw_vmo_size=8192,
        ),
        image_format_constraints=None,
    )
    found = buffer_settings(client, buffers(5000))
    assert found.is_secure is False
    assert found.is_physically_contiguous is False


def test_the_heap_delivered_is_the_system_heap_with_its_id(client: blocking.Allocator) -> None:
    heap = buffer_settings(client, buffers()).heap
    assert heap == Heap(heap_type="fuchsia.sysmem.heap.HEAP_TYPE.SYSTEM_RAM", id=0)
    assert heap is not None
    assert heap.id == 0


# Section 0: somebody must ask for a size


@pytest.mark.parametrize(
    "table",
    [
        None,
        BufferMemoryConstraints(),
        BufferMemoryConstraints(min_size_bytes=0, max_size_bytes=4096),
    ],
)
def test_nobody_asking_for_a_size_is_empty(
    client: blocking.Allocator, table: BufferMemoryConstraints | None
) -> None:
    assert refused(client, buffers(buffer_memory_constraints=table))


def test_one_participant_asking_for_a_size_is_enough(client: blocking.Allocator) -> None:
    silent = buffers(buffer_memory_constraints=None)
    assert buffer_settings(client, silent, buffers(10)).size_bytes == 10


def test_one_byte_is_one_page_of_vmo(client: blocking.Allocator) -> None:
    found = buffer_settings(client, buffers(1))
    assert (found.size_bytes, found.raw_vmo_size) == (1, 4096)


# 1: usage


def test_no_usage_bit_in_a_table_that_is_not_empty_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, buffers(usage=None))
    assert refused(client, buffers(usage=BufferUsage()))
    assert refused(client, buffers(usage=BufferUsage(cpu=CpuUsage(0), none=NoneUsage(0))))


@pytest.mark.parametrize(
    "other",
    [
        BufferUsage(none=NoneUsage.NONE_USAGE, cpu=CpuUsage.READ),
        BufferUsage(none=NoneUsage.NONE_USAGE, vulkan=VulkanUsage.BUFFER_INDEX_BUFFER),
        BufferUsage(none=NoneUsage.NONE_USAGE, display=DisplayUsage.LAYER),
        BufferUsage(none=NoneUsage.NONE_USAGE, video=VideoUsage.CAPTURE),
    ],
)
def test_usage_none_excludes_all_others(client: blocking.Allocator, other: BufferUsage) -> None:
    assert refused(client, buffers(usage=other))


def test_permit_allocation_requires_usage_none(client: blocking.Allocator) -> None:
    permit = NoneUsage.NONE_USAGE_PERMIT_ALLOCATION
    assert refused(client, buffers(usage=BufferUsage(none=permit)))
    assert not refused(client, buffers(usage=BufferUsage(none=NoneUsage.NONE_USAGE | permit)))


def test_somebody_must_use_or_permit(client: blocking.Allocator) -> None:
    idle = buffers(usage=BufferUsage(none=NoneUsage.NONE_USAGE))
    permitting = buffers(
        usage=BufferUsage(none=NoneUsage.NONE_USAGE | NoneUsage.NONE_USAGE_PERMIT_ALLOCATION)
    )
    assert refused(client, idle)
    assert refused(client, idle, idle)
    assert not refused(client, idle, permitting)
    assert not refused(client, idle, buffers())


def test_an_empty_table_and_none_at_all_mean_usage_none(client: blocking.Allocator) -> None:
    for table in (None, sysmem.BufferCollectionConstraints()):
        assert refused(client, table)
        info = outcome(client, table, buffers())
        assert isinstance(info, sysmem.BufferCollectionInfo)
        with info:
            assert info.buffers is not None
            assert [buffer.vmo for buffer in info.buffers] == [None]
            assert [buffer.close_weak_asap for buffer in info.buffers] == [None]
            assert [buffer.vmo_usable_start for buffer in info.buffers] == [0]


# Sections 2 and 5.1: counts


def test_camping_and_dedicated_slack_add_up_and_shared_slack_is_the_largest(
    client: blocking.Allocator,
) -> None:
    first = buffers(
        min_buffer_count_for_camping=2,
        min_buffer_count_for_dedicated_slack=1,
        min_buffer_count_for_shared_slack=3,
    )
    second = buffers(
        min_buffer_count_for_camping=3,
        min_buffer_count_for_dedicated_slack=4,
        min_buffer_count_for_shared_slack=2,
    )
    assert count(client, first) == 6
    assert count(client, first, second) == 5 + 5 + 3


def test_min_buffer_count_is_a_floor_and_the_largest_wins(client: blocking.Allocator) -> None:
    assert count(client, buffers(min_buffer_count=5), buffers(min_buffer_count=4)) == 5
    assert count(client, buffers(min_buffer_count_for_camping=7, min_buffer_count=5)) == 7


def test_max_buffer_count_bounds_the_sum(client: blocking.Allocator) -> None:
    two = buffers(min_buffer_count_for_camping=2)
    assert count(client, two, buffers(max_buffer_count=3)) == 3
    assert refused(client, two, buffers(max_buffer_count=2))
    assert refused(client, buffers(min_buffer_count=4), buffers(max_buffer_count=3))


def test_min_buffer_count_over_max_buffer_count_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, buffers(min_buffer_count=3, max_buffer_count=2))
    assert not refused(client, buffers(min_buffer_count=3, max_buffer_count=3))


def test_max_buffer_count_zero_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, buffers(min_buffer_count_for_camping=0, max_buffer_count=0))


def test_no_buffer_at_all_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, buffers(min_buffer_count_for_camping=None))
    assert refused(client, buffers(min_buffer_count_for_camping=0))


def test_128_buffers_are_the_most(client: blocking.Allocator) -> None:
    assert count(client, buffers(min_buffer_count_for_camping=128)) == 128
    assert refused(client, buffers(min_buffer_count_for_camping=129))
    assert refused(client, buffers(min_buffer_count=129))


def test_counts_that_exceed_32_bits_together_are_empty_not_small(
    client: blocking.Allocator,
) -> None:
    huge = buffers(min_buffer_count_for_camping=0xFFFFFFFF)
    assert refused(client, huge, buffers(min_buffer_count_for_camping=2))


# Sections 1, 2, 5.6 and 5.7: sizes


def test_the_largest_minimum_is_the_size(client: blocking.Allocator) -> None:
    assert buffer_settings(client, buffers(100), buffers(300), buffers(200)).size_bytes == 300


def test_the_smallest_maximum_bounds_the_size(client: blocking.Allocator) -> None:
    assert refused(client, memory(min_size_bytes=101), memory(max_size_bytes=100, min_size_bytes=1))
    exact = memory(min_size_bytes=100, max_size_bytes=100)
    found = buffer_settings(client, exact)
    assert (found.size_bytes, found.raw_vmo_size) == (100, 4096)


def test_min_size_over_max_size_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, memory(min_size_bytes=2, max_size_bytes=1))
    assert refused(client, memory(min_size_bytes=0, max_size_bytes=0), buffers())


def test_256_mib_is_the_largest_buffer(client: blocking.Allocator) -> None:
    assert buffer_settings(client, buffers(2**28)).raw_vmo_size == 2**28
    assert refused(client, buffers(2**28 + 1))
    assert refused(client, buffers(2**64 - 1))


def test_one_gib_is_the_largest_collection(client: blocking.Allocator) -> None:
    assert count(client, buffers(2**28, min_buffer_count_for_camping=4)) == 4
    assert refused(client, buffers(2**28, min_buffer_count_for_camping=5))
    # The limit applies to the used bytes, before rounding up to pages.
    just = 2**30 // 128
    assert count(client, buffers(just, min_buffer_count_for_camping=128)) == 128
    assert refused(client, buffers(just + 1, min_buffer_count_for_camping=128))


# Section 1: contiguity and security


def test_contiguous_is_simulated_and_reported(client: blocking.Allocator) -> None:
    found = buffer_settings(client, buffers(), memory(physically_contiguous_required=True))
    assert found.is_physically_contiguous is True
    assert found.is_secure is False


@pytest.mark.parametrize(
    ("alignment", "contiguous", "empty"),
    [
        (1, True, False),
        (65536, True, False),
        (0, True, True),
        (3, True, True),
        (2, False, True),
        (1, False, True),
        (2, None, True),
    ],
)
def test_base_alignment_needs_contiguity_and_a_power_of_two(
    client: blocking.Allocator, alignment: int, contiguous: bool | None, empty: bool
) -> None:
    table = memory(min_physical_base_alignment=alignment, physically_contiguous_required=contiguous)
    assert refused(client, table) is empty


def test_secure_without_a_configured_secure_heap_is_empty(client: blocking.Allocator) -> None:
    table = buffers(
        usage=NO_CPU,
        buffer_memory_constraints=BufferMemoryConstraints(
            min_size_bytes=4096, secure_required=True
        ),
    )
    assert refused(client, table)


# Sections 1, 2 and 5.3: coherency domains


def _domains(usage: BufferUsage, **fields: Any) -> sysmem.BufferCollectionConstraints:
    table = memory(**fields)
    return buffers(usage=usage, buffer_memory_constraints=table.buffer_memory_constraints)


def test_cpu_is_preferred_to_ram_to_inaccessible(client: blocking.Allocator) -> None:
    def chosen(*tables: sysmem.BufferCollectionConstraints) -> object:
        return buffer_settings(client, *tables).coherency_domain

    assert chosen(_domains(VULKAN)) is CoherencyDomain.CPU
    assert chosen(_domains(VULKAN, cpu_domain_supported=False)) is CoherencyDomain.RAM
    assert (
        chosen(_domains(VULKAN, cpu_domain_supported=False, ram_domain_supported=False))
        is CoherencyDomain.INACCESSIBLE
    )


def test_display_prefers_ram_where_everybody_supports_it(client: blocking.Allocator) -> None:
    layer = BufferUsage(display=DisplayUsage.LAYER)

    def chosen(*tables: sysmem.BufferCollectionConstraints) -> object:
        return buffer_settings(client, *tables).coherency_domain

    assert chosen(_domains(layer)) is CoherencyDomain.RAM
    assert chosen(_domains(layer, ram_domain_supported=False)) is CoherencyDomain.CPU
    # A participant that uses the CPU supports RAM only if it says so.
    assert chosen(_domains(layer), buffers()) is CoherencyDomain.CPU
    assert chosen(_domains(layer), memory(ram_domain_supported=True)) is CoherencyDomain.RAM


def test_cpu_usage_requires_cpu_or_ram(client: blocking.Allocator) -> None:
    assert refused(client, memory(cpu_domain_supported=False))
    assert refused(client, memory(cpu_domain_supported=False, inaccessible_domain_supported=True))
    found = buffer_settings(client, memory(cpu_domain_supported=False, ram_domain_supported=True))
    assert found.coherency_domain is CoherencyDomain.RAM


def test_no_common_domain_is_empty(client: blocking.Allocator) -> None:
    only_inaccessible = _domains(VULKAN, cpu_domain_supported=False, ram_domain_supported=False)
    assert refused(client, buffers(), only_inaccessible)
    none = _domains(
        VULKAN,
        cpu_domain_supported=False,
        ram_domain_supported=False,
        inaccessible_domain_supported=False,
    )
    assert refused(client, none)


def test_domain_defaults_hold_without_memory_constraints(client: blocking.Allocator) -> None:
    # A participant that uses the CPU and has no memory constraints supports only the CPU domain.
    silent = buffers(buffer_memory_constraints=None)
    asking = _domains(VULKAN, cpu_domain_supported=False)
    assert refused(client, silent, asking)


# Sections 1, 2 and 5.2: heaps


def test_an_empty_list_of_heaps_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, memory(permitted_heaps=[]))


def test_a_heap_needs_a_type_and_its_id_defaults_to_0(client: blocking.Allocator) -> None:
    assert refused(client, memory(permitted_heaps=[Heap(id=0)]))
    assert refused(client, memory(permitted_heaps=[sysmem.SYSTEM_RAM_HEAP, Heap()]))
    bare = Heap(heap_type=sysmem.SYSTEM_RAM_HEAP.heap_type)
    assert buffer_settings(client, memory(permitted_heaps=[bare])).heap == sysmem.SYSTEM_RAM_HEAP


def test_heaps_intersect_by_type_and_id(client: blocking.Allocator) -> None:
    other = Heap(heap_type="nowhere", id=0)
    second = Heap(heap_type=sysmem.SYSTEM_RAM_HEAP.heap_type, id=1)
    system = sysmem.SYSTEM_RAM_HEAP
    assert refused(client, memory(permitted_heaps=[other]), memory(permitted_heaps=[system]))
    assert refused(client, memory(permitted_heaps=[second]), memory(permitted_heaps=[system]))
    both = memory(permitted_heaps=[other, system])
    assert buffer_settings(client, both, memory(permitted_heaps=[system])).heap == system


def test_a_heap_that_is_not_configured_is_empty(client: blocking.Allocator) -> None:
    assert refused(client, memory(permitted_heaps=[Heap(heap_type="nowhere", id=0)]))


# `docs/spec/protocol.md`, "Tables": usage none


def test_permitted_none_gets_vmos_that_are_read_only(client: blocking.Allocator) -> None:
    permit = NoneUsage.NONE_USAGE | NoneUsage.NONE_USAGE_PERMIT_ALLOCATION
    info = outcome(client, buffers(usage=BufferUsage(none=permit)))
    assert isinstance(info, sysmem.BufferCollectionInfo)
    with info:
        assert info.buffers is not None
        vmo = info.buffers[0].vmo
        assert vmo is not None
        assert vmo.writable is False


def test_usage_bits_nobody_knows_are_bits_all_the_same(client: blocking.Allocator) -> None:
    # Section 2: usage is combined by "or"; at least one bit must be set (section 1). An unknown bit counts too.
    assert not refused(client, buffers(usage=BufferUsage(vulkan=1 << 30)))


def test_reading_alone_is_usage(client: blocking.Allocator) -> None:
    assert not refused(client, buffers(usage=BufferUsage(cpu=CpuUsage.READ)))
