"""`docs/spec/constraints.md`, sections 0 and 1: one participant's usage, counts and memory."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem_protocol.images2 import PixelFormat
from sysmem_protocol.sysmem2 import (
    SYSTEM_RAM_HEAP,
    BufferCollectionConstraints,
    BufferUsage,
    CoherencyDomain,
    Heap,
)
from sysmemd.constraints import Participant, Platform, Rule, Stage, UsageBits
from sysmemd.constraints.normalise import asks_for_a_size, normalise
from sysmemd.explaining import Diagnosis

from .support import (
    DEVICE_HEAP,
    PLATFORM,
    READS,
    SECURE_HEAP,
    U32,
    U64,
    agree,
    heap,
    image,
    memory,
    memory_of,
    refused_by,
    size,
    wants,
)

SECURE = Platform(heaps=(SECURE_HEAP, DEVICE_HEAP))
BASE = wants(min_size_bytes=1)
DISPLAY = BufferUsage(display=1)


# --- (0) ----------------------------------------------------------------------------------------------------------


def test_somebody_must_ask_for_a_size() -> None:
    refusal = refused_by(Rule.NOBODY_ASKS_FOR_A_SIZE, None, wants(image()))
    assert refusal.stage is Stage.REQUEST
    assert Diagnosis(refusal).conflict == ()
    assert Diagnosis(refusal).path == ""


@pytest.mark.parametrize(
    "constraints",
    [
        wants(min_size_bytes=1),
        wants(image(min_size=size(1, 1))),
        wants(image(), image(PixelFormat.L8, required_max_size=size(1, 1))),
        wants(image(required_max_size_list=[size(0, 1), size(1, 1)])),
    ],
)
def test_ways_to_ask_for_a_size(constraints: BufferCollectionConstraints) -> None:
    assert asks_for_a_size(constraints)


@pytest.mark.parametrize(
    "constraints",
    [
        None,
        wants(),
        wants(buffer_memory_constraints=memory()),
        wants(min_size_bytes=0),
        wants(image(min_size=size(0, 1))),
        wants(image(min_size=size(1, 0), required_max_size_list=[])),
    ],
)
def test_ways_not_to(constraints: BufferCollectionConstraints | None) -> None:
    assert not asks_for_a_size(constraints)


# --- usage --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("constraints", [None, BufferCollectionConstraints()])
def test_an_entirely_empty_table_is_none_usage(
    constraints: BufferCollectionConstraints | None,
) -> None:
    assert normalise(Participant(constraints), PLATFORM).usage == UsageBits(none=1)
    agree(BASE, constraints)


@pytest.mark.parametrize("usage", [None, BufferUsage(), BufferUsage(cpu=0, none=0)])
def test_at_least_one_usage_bit_must_be_set(usage: BufferUsage | None) -> None:
    refusal = refused_by(Rule.USAGE_MISSING, BASE, wants(usage=usage))
    assert refusal.stage is Stage.PARTICIPANT
    assert Diagnosis(refusal).path == "$.usage"
    assert str(refusal.participant) == "p1 (1)"


@pytest.mark.parametrize("word", ["cpu", "vulkan", "display", "video"])
def test_none_excludes_all_others(word: str) -> None:
    refused_by(Rule.NONE_EXCLUDES_USAGE, BASE, wants(usage=BufferUsage(none=1, **{word: 1})))


def test_permit_allocation_requires_none_usage() -> None:
    refused_by(Rule.PERMIT_REQUIRES_NONE, BASE, wants(usage=BufferUsage(none=2)))
    agree(wants(usage=BufferUsage(none=3), min_size_bytes=1))


def test_unknown_usage_bits_are_usage() -> None:
    agree(wants(usage=BufferUsage(video=1 << 31), min_size_bytes=1))


# --- counts -------------------------------------------------------------------------------------------------------


def test_defaults_of_counts() -> None:
    needs = normalise(Participant(wants(count=None)), PLATFORM)
    assert (needs.camping, needs.dedicated_slack, needs.shared_slack) == (0, 0, 0)
    assert (needs.min_buffer_count, needs.max_buffer_count) == (0, U32)


def test_min_buffer_count_at_most_max_buffer_count() -> None:
    refusal = refused_by(
        Rule.MIN_COUNT_OVER_MAX, BASE, wants(min_buffer_count=4, max_buffer_count=3)
    )
    assert refusal.stage is Stage.PARTICIPANT
    assert [(v.path, v.value) for v in Diagnosis(refusal).values] == [
        ("$.min_buffer_count", 4),
        ("$.max_buffer_count", 3),
    ]
    agree(wants(min_size_bytes=1, min_buffer_count=3, max_buffer_count=3))


def test_max_buffer_count_not_0() -> None:
    refused_by(Rule.MAX_COUNT_ZERO, BASE, wants(max_buffer_count=0))


# --- memory -------------------------------------------------------------------------------------------------------


def needs_of(usage: BufferUsage = READS, platform: Platform = PLATFORM, **fields: Any) -> Any:
    constraints = wants(usage=usage, buffer_memory_constraints=memory(**fields))
    return normalise(Participant(constraints), platform)


def test_defaults_of_memory() -> None:
    needs = needs_of()
    assert (needs.min_size_bytes, needs.max_size_bytes) == (0, U64)
    assert (needs.contiguous, needs.secure, needs.heaps) == (False, False, None)


def test_min_size_bytes_at_most_max_size_bytes() -> None:
    both = memory(min_size_bytes=2, max_size_bytes=1)
    refused_by(Rule.MIN_BYTES_OVER_MAX, wants(buffer_memory_constraints=both))


def test_alignment_defaults_to_1_when_contiguous() -> None:
    assert needs_of().min_physical_base_alignment == 0
    contiguous = needs_of(physically_contiguous_required=True)
    assert contiguous.min_physical_base_alignment == 1


def test_alignment_is_for_contiguous_memory() -> None:
    fields = memory(min_physical_base_alignment=4)
    refused_by(Rule.ALIGNMENT_NEEDS_CONTIGUOUS, BASE, wants(buffer_memory_constraints=fields))


@pytest.mark.parametrize("alignment", [0, 3, U64])
def test_alignment_is_a_power_of_2(alignment: int) -> None:
    fields = memory(physically_contiguous_required=True, min_physical_base_alignment=alignment)
    refused_by(Rule.POWER_OF_2, BASE, wants(buffer_memory_constraints=fields))


def test_a_good_alignment() -> None:
    needs = needs_of(physically_contiguous_required=True, min_physical_base_alignment=1 << 63)
    assert needs.min_physical_base_alignment == 1 << 63


@pytest.mark.parametrize(
    ("usage", "secure", "domains"),
    [
        (READS, False, (True, False, False)),
        (DISPLAY, False, (True, True, True)),
        (DISPLAY, True, (False, False, True)),
    ],
)
def test_default_domains(
    usage: BufferUsage, secure: bool, domains: tuple[bool, bool, bool]
) -> None:
    needs = needs_of(usage, SECURE, secure_required=secure)
    assert (needs.cpu_domain, needs.ram_domain, needs.inaccessible_domain) == domains


def test_permitted_heaps_not_empty() -> None:
    none = memory(permitted_heaps=[])
    refused_by(Rule.HEAPS_EMPTY, BASE, wants(buffer_memory_constraints=none))


def test_a_heap_needs_a_type_and_has_id_0() -> None:
    nameless = memory(permitted_heaps=[Heap(id=3)])
    refused_by(Rule.HEAP_TYPE_MISSING, BASE, wants(buffer_memory_constraints=nameless))
    assert needs_of(permitted_heaps=[Heap(heap_type="x")]).heaps == (("x", 0),)


def test_cpu_usage_requires_a_domain() -> None:
    inaccessible = memory(cpu_domain_supported=False, inaccessible_domain_supported=True)
    refused_by(Rule.CPU_USAGE_NEEDS_DOMAIN, BASE, wants(buffer_memory_constraints=inaccessible))
    needs_of(cpu_domain_supported=False, ram_domain_supported=True)


def test_cpu_usage_forbids_secure() -> None:
    secure = memory(secure_required=True)
    refused_by(
        Rule.CPU_USAGE_FORBIDS_SECURE,
        BASE,
        wants(buffer_memory_constraints=secure),
        platform=SECURE,
    )


@pytest.mark.parametrize("domain", ["cpu", "ram"])
def test_secure_forbids_cpu_and_ram(domain: str) -> None:
    fields = {"secure_required": True, f"{domain}_domain_supported": True}
    constraints = wants(usage=DISPLAY, buffer_memory_constraints=memory(**fields))
    refused_by(Rule.SECURE_FORBIDS_DOMAIN, BASE, constraints, platform=SECURE)


def test_secure_requires_inaccessible() -> None:
    fields = memory(secure_required=True, inaccessible_domain_supported=False)
    refused_by(
        Rule.SECURE_NEEDS_INACCESSIBLE,
        BASE,
        wants(usage=DISPLAY, buffer_memory_constraints=fields),
        platform=SECURE,
    )


def test_secure_requires_a_configured_secure_heap() -> None:
    anywhere = wants(usage=DISPLAY, buffer_memory_constraints=memory(secure_required=True))
    refused_by(Rule.SECURE_NEEDS_HEAP, BASE, anywhere)
    elsewhere = memory(
        secure_required=True, permitted_heaps=[SYSTEM_RAM_HEAP, Heap(heap_type="not configured")]
    )
    refused_by(
        Rule.SECURE_NEEDS_HEAP,
        BASE,
        wants(usage=DISPLAY, buffer_memory_constraints=elsewhere),
        platform=SECURE,
    )


def test_a_good_secure_participant() -> None:
    fields = memory(secure_required=True, min_size_bytes=1, permitted_heaps=[heap(SECURE_HEAP)])
    settled = agree(
        wants(usage=DISPLAY, buffer_memory_constraints=fields),
        platform=SECURE,
    )
    assert memory_of(settled).is_secure
    assert memory_of(settled).coherency_domain is CoherencyDomain.INACCESSIBLE
