"""What the configuration means to the constraint engine and to memory."""

from __future__ import annotations

import contextlib
import resource

from sysmem_protocol.sysmem2 import CoherencyDomain

from .config import Config, ConfigError, HeapSection
from .constraints import FormatCost, HeapProperties, Platform, merge_format_costs
from .memory import SYSTEM_RAM, DmaHeap, Heap, HeapSettings, MemfdHeap


def platform(config: Config) -> Platform:
    """Return the constraint engine's view of this daemon."""
    return Platform(
        heaps=tuple(
            HeapProperties(
                heap.heap_type,
                heap.id,
                heap.domains,
                heap.secure,
                heap.contiguous,
                one_file=heap.device is not None,
            )
            for heap in heap_settings(config)
        ),
        format_costs=merge_format_costs(
            FormatCost(
                pixel_format=entry.format_number(),
                pixel_format_modifier=entry.modifier_number(),
                usage=entry.usage.table(),
                cost=entry.cost,
            )
            for entry in config.format_cost
        ),
        page_size=resource.getpagesize(),
        contiguous=config.memory.contiguous,
        max_buffer_bytes=config.limits.max_buffer_bytes,
        max_collection_bytes=config.limits.max_collection_bytes,
        max_allocation_bytes=config.limits.max_allocation_bytes,
    )


def heap_settings(config: Config) -> list[HeapSettings]:
    """Return the configured heaps, and the system heap if it is not among them."""
    heaps = [_heap(section) for section in config.heap]
    if not any((heap.heap_type, heap.id) == (SYSTEM_RAM.heap_type, 0) for heap in heaps):
        heaps.insert(0, SYSTEM_RAM)
    return heaps


def make_heap(settings: HeapSettings, stack: contextlib.ExitStack) -> Heap:
    """Return a heap, which `stack` closes. Raises `ConfigError` if its device cannot be opened."""
    if settings.device is None:
        return MemfdHeap(settings)
    try:
        heap = DmaHeap(settings)
    except OSError as error:
        raise ConfigError(f"{settings}: {settings.device}: {error.strerror}") from error
    stack.callback(heap.close)
    return heap


def _heap(section: HeapSection) -> HeapSettings:
    return HeapSettings(
        heap_type=section.type,
        id=section.id,
        domains=frozenset(CoherencyDomain[name.upper()] for name in section.domain_names()),
        secure=section.secure,
        max_bytes=section.max_bytes,
        device=section.device,
        contiguous=section.contiguous,
    )
