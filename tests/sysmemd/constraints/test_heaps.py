"""`docs/spec/constraints.md`, sections 5.2 and 5.3: heap and coherency domain."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem_protocol.sysmem2 import SYSTEM_RAM_HEAP, BufferUsage, CoherencyDomain, Heap
from sysmemd.constraints import HeapProperties, Platform, Rule, Stage
from sysmemd.explaining import Diagnosis

from .support import (
    DEVICE_HEAP,
    READS,
    SECURE_HEAP,
    agree,
    heap,
    memory,
    memory_of,
    refused_by,
    wants,
)

CPU, RAM, INACCESSIBLE = CoherencyDomain
DISPLAY = BufferUsage(display=1)
RAM_HEAP = HeapProperties("test.ram", 3, frozenset({RAM}))
BEFORE = HeapProperties("test.a", 5, secure=True)
BEFORE_BY_ID = HeapProperties("test.a", 4, secure=True)
PLATFORM = Platform(heaps=(SECURE_HEAP, BEFORE, BEFORE_BY_ID, DEVICE_HEAP, RAM_HEAP))


def buffers(*fields: dict[str, Any], usage: BufferUsage = DISPLAY) -> Any:
    parts = [wants(usage=usage, buffer_memory_constraints=memory(**each)) for each in fields]
    base = wants(usage=BufferUsage(none=1), count=None, min_size_bytes=1)
    return memory_of(agree(base, *parts, platform=PLATFORM))


def permits(*heaps: HeapProperties | Heap) -> dict[str, Any]:
    keys = [h if isinstance(h, Heap) else heap(h) for h in heaps]
    return {"permitted_heaps": keys}


def test_secure_takes_the_alphabetically_first_secure_heap() -> None:
    assert buffers({"secure_required": True}).heap == heap(BEFORE_BY_ID)
    wanted = {"secure_required": True, **permits(SECURE_HEAP, BEFORE, DEVICE_HEAP)}
    assert buffers(wanted).heap == heap(BEFORE)
    assert buffers({"secure_required": True, **permits(SECURE_HEAP)}).heap == heap(SECURE_HEAP)


def test_no_secure_heap_is_permitted_by_everybody() -> None:
    refusal = refused_by(
        Rule.NO_SECURE_HEAP,
        wants(min_size_bytes=1, usage=DISPLAY),
        wants(usage=DISPLAY, buffer_memory_constraints=memory(secure_required=True)),
        wants(usage=DISPLAY, buffer_memory_constraints=memory(**permits(DEVICE_HEAP))),
        platform=PLATFORM,
    )
    assert refusal.stage is Stage.SETTINGS
    assert [str(who) for who in Diagnosis(refusal).conflict] == ["p1 (1)", "p2 (2)"]


def test_else_the_system_heap_if_permitted() -> None:
    assert buffers({}).heap == SYSTEM_RAM_HEAP
    assert buffers(permits(DEVICE_HEAP, SYSTEM_RAM_HEAP)).heap == SYSTEM_RAM_HEAP


def test_else_the_first_permitted_that_is_configured_and_supports_a_domain() -> None:
    unknown = Heap(heap_type="test.unknown", id=0)
    assert buffers(permits(unknown, DEVICE_HEAP, RAM_HEAP)).heap == heap(DEVICE_HEAP)
    assert buffers(permits(unknown, RAM_HEAP, DEVICE_HEAP)).heap == heap(RAM_HEAP)
    no_ram = {"ram_domain_supported": False}
    assert buffers({**permits(RAM_HEAP, DEVICE_HEAP), **no_ram}).heap == heap(DEVICE_HEAP)


@pytest.mark.parametrize(
    "fields",
    [
        permits(Heap(heap_type="test.unknown")),
        permits(Heap(heap_type=DEVICE_HEAP.heap_type, id=DEVICE_HEAP.id + 1)),
        {**permits(RAM_HEAP), "ram_domain_supported": False},
    ],
)
def test_no_heap(fields: dict[str, Any]) -> None:
    constraints = wants(usage=DISPLAY, buffer_memory_constraints=memory(min_size_bytes=1, **fields))
    refused_by(Rule.NO_HEAP, constraints, platform=PLATFORM)


def test_a_display_takes_ram_if_it_can() -> None:
    assert buffers({}).coherency_domain is RAM
    assert buffers({"ram_domain_supported": False}).coherency_domain is CPU
    secure = buffers({"secure_required": True})
    assert secure.coherency_domain is INACCESSIBLE


@pytest.mark.parametrize(
    ("fields", "domain"),
    [
        ({}, CPU),
        ({"cpu_domain_supported": False}, RAM),
        ({"cpu_domain_supported": False, "ram_domain_supported": False}, INACCESSIBLE),
        (permits(RAM_HEAP), RAM),
        (permits(SECURE_HEAP), INACCESSIBLE),
    ],
)
def test_else_the_first_that_heap_and_participants_support(
    fields: dict[str, Any], domain: CoherencyDomain
) -> None:
    assert buffers(fields, usage=BufferUsage(video=1)).coherency_domain is domain


def test_no_domain_in_common() -> None:
    cpu = wants(usage=READS, min_size_bytes=1)
    device = wants(usage=DISPLAY, buffer_memory_constraints=memory(cpu_domain_supported=False))
    refusal = refused_by(Rule.NO_COMMON_DOMAIN, cpu, device)
    assert [str(who) for who in Diagnosis(refusal).conflict] == ["p0 (0)", "p1 (1)"]


def test_delivered_security_and_contiguity_are_what_was_required() -> None:
    assert not buffers(permits(SECURE_HEAP)).is_secure
    assert buffers({"physically_contiguous_required": True}).is_physically_contiguous
    assert not buffers({}).is_physically_contiguous


def test_contiguous_refused_by_the_platform() -> None:
    wanted = memory(min_size_bytes=1, physically_contiguous_required=True)
    refused_by(
        Rule.CONTIGUOUS_REFUSED,
        wants(buffer_memory_constraints=wanted),
        platform=Platform(contiguous="refuse"),
    )
