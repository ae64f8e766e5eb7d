"""The effect of the configuration on the constraint engine and on memory."""

from __future__ import annotations

import resource

from sysmem_protocol.images2 import PixelFormat
from sysmem_protocol.sysmem2 import CoherencyDomain
from sysmemd.config import Config, FormatCostSection, HeapSection, Limits, UsageSection
from sysmemd.configured import heap_settings, platform
from sysmemd.memory import SYSTEM_RAM


def test_the_system_heap_is_there_unless_it_is_configured() -> None:
    assert heap_settings(Config()) == [SYSTEM_RAM]
    bounded = HeapSection(type=SYSTEM_RAM.heap_type, max_bytes=5)
    [heap] = heap_settings(Config(heap=[bounded]))
    assert heap.max_bytes == 5
    assert heap.domains == frozenset(CoherencyDomain)
    other = HeapSection(type="example", id=3, secure=True)
    system, heap = heap_settings(Config(heap=[other]))
    assert system == SYSTEM_RAM
    assert (heap.heap_type, heap.id, heap.secure) == ("example", 3, True)
    assert heap.domains == {CoherencyDomain.INACCESSIBLE}


def test_the_engine_is_told_of_the_configuration() -> None:
    cost = FormatCostSection(pixel_format="NV12", usage=UsageSection(video=1), cost=2.0)
    config = Config(limits=Limits(max_buffer_bytes=7, max_allocation_bytes=6), format_cost=[cost])
    made = platform(config)
    assert (made.max_buffer_bytes, made.max_allocation_bytes) == (7, 6)
    assert (made.page_size, made.contiguous) == (resource.getpagesize(), "simulated")
    [entry] = made.format_costs
    assert (entry.pixel_format, entry.cost) == (PixelFormat.NV12, 2.0)
    [heap] = made.heaps
    assert heap.heap_type == SYSTEM_RAM.heap_type
