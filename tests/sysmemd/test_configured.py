"""The effect of the configuration on the constraint engine and on memory."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import pytest

from sysmem_protocol.images2 import PixelFormat
from sysmem_protocol.sysmem2 import CoherencyDomain
from sysmemd.config import (
    Config,
    ConfigError,
    FormatCostSection,
    HeapSection,
    Limits,
    UsageSection,
)
from sysmemd.configured import heap_settings, make_heap, platform
from sysmemd.constraints import FormatCost, HeapProperties, UsageBits
from sysmemd.memory import SYSTEM_RAM, DmaHeap, MemfdHeap


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
    limits = Limits(max_buffer_bytes=7, max_allocation_bytes=6, max_collection_bytes=8)
    device = HeapSection(type="x", id=2, kind="dma-heap", device="/dev/no", contiguous=True)
    config = Config(limits=limits, format_cost=[cost], heap=[device])
    made = platform(config)
    assert (made.max_buffer_bytes, made.max_allocation_bytes) == (7, 6)
    assert made.max_collection_bytes == 8
    assert (made.page_size, made.contiguous) == (resource.getpagesize(), "simulated")
    [entry] = made.format_costs
    assert entry == FormatCost(PixelFormat.NV12, usage=UsageBits(video=1), cost=2.0)
    system, heap = made.heaps
    assert (system.heap_type, system.one_file) == (SYSTEM_RAM.heap_type, False)
    assert heap == HeapProperties("x", 2, contiguous=True, one_file=True)


def test_a_heap_closes_its_device_in_the_end(tmp_path: Path) -> None:
    device = tmp_path / "device"
    device.touch()
    section = HeapSection(type="x", kind="dma-heap", device=str(device))
    with contextlib.ExitStack() as stack:
        heaps = [make_heap(one, stack) for one in heap_settings(Config(heap=[section]))]
        assert [type(heap) for heap in heaps] == [MemfdHeap, DmaHeap]
        assert heaps[1].properties.device == str(device)


def test_a_heap_whose_device_is_not_there_is_a_fault_of_the_configuration() -> None:
    section = HeapSection(type="x", kind="dma-heap", device="/dev/no")
    _, settings = heap_settings(Config(heap=[section]))
    with (
        contextlib.ExitStack() as stack,
        pytest.raises(ConfigError, match=r"heap x \(id 0\): /dev/no: "),
    ):
        make_heap(settings, stack)
