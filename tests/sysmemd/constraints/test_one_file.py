"""Heaps in which all handles to a buffer are one open file (`docs/spec/pictures-and-devices.md`, "dma-buf")."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem_protocol.sysmem2 import (
    BufferMemoryConstraints,
    BufferUsage,
    CoherencyDomain,
    Heap,
    VideoUsage,
)
from sysmemd.constraints import (
    NO_HANDLES,
    Access,
    Allocation,
    HeapProperties,
    Joining,
    Participant,
    Platform,
    Refusal,
    Rule,
    aggregate,
)
from sysmemd.constraints.heaps import heap_fields
from sysmemd.constraints.normalise import normalise
from sysmemd.explaining import Diagnosis, explain

from .support import heap, memory_of, wants

DMA = HeapProperties("test.dma", one_file=True)
CMA = HeapProperties("test.cma", contiguous=True, one_file=True)
OTHER = HeapProperties("test.other")
SYSTEM = Platform().heaps[0]
PLATFORM = Platform(heaps=(DMA, CMA, OTHER))
RO, RW, WEAK = Access.READ_ONLY, Access.WRITABLE, Access.WEAK


def who(name: str, access: Access, *permitted: HeapProperties, **fields: Any) -> Participant:
    """Return a participant with raw buffers of 4 KiB and such handles. Without `heaps` it accepts any heap."""
    heaps: list[Heap] | None = [heap(each) for each in permitted] or None
    needs = BufferMemoryConstraints(min_size_bytes=4096, permitted_heaps=heaps, **fields)
    return Participant(wants(buffer_memory_constraints=needs), name, access=access)


def agreed(*participants: Participant, platform: Platform = PLATFORM) -> Allocation:
    result = aggregate(participants, platform)
    assert isinstance(result, Allocation), result
    return result


@pytest.mark.parametrize(
    "accesses", [(RW, RW), (RO, RO), (RW, NO_HANDLES), (NO_HANDLES, NO_HANDLES)]
)
def test_handles_that_are_alike_suit_it(accesses: tuple[Access, ...]) -> None:
    made = agreed(*(who(f"p{i}", access, DMA) for i, access in enumerate(accesses)))
    assert memory_of(made).heap == heap(DMA)
    assert made.access == accesses[0] | accesses[1]


@pytest.mark.parametrize(
    ("access", "detail"),
    [
        (RO, "heap test.dma, and some participants may write, others only read"),
        (RW | WEAK, "heap test.dma, and a participant is weak"),
    ],
)
def test_others_do_not(access: Access, detail: str) -> None:
    result = aggregate([who("camera", RW, DMA), who("display", access, DMA)], PLATFORM)
    assert isinstance(result, Refusal)
    assert (result.rule, result.detail) == (Rule.ONE_FILE_HEAP, detail)
    line = str(Diagnosis(result))
    assert "all or none may write, none may be weak" in line
    assert "display (0)" in line


def test_a_heap_that_does_not_suit_is_passed_over() -> None:
    made = agreed(who("camera", RW, DMA, OTHER), who("display", RO, DMA, OTHER))
    assert memory_of(made).heap == heap(OTHER)
    why = explain(made).report(200)
    assert "has one open file for all handles to a buffer, and some participants" in why
    assert "some participants may write, others only read" in why
    assert "not everybody supports" not in why


def test_the_system_heap_comes_first_as_ever() -> None:
    assert memory_of(agreed(who("camera", RW))).heap == heap(SYSTEM)


def test_contiguous_memory_comes_from_a_heap_that_has_it() -> None:
    for permitted in ((), (DMA, CMA)):
        made = agreed(who("camera", RW, *permitted, physically_contiguous_required=True))
        assert memory_of(made).heap == heap(CMA)
        assert memory_of(made).is_physically_contiguous
        why = explain(made).report(200)
        assert "the first permitted heap that is contiguous" in why
        assert "physically_contiguous_required" in why


def test_contiguous_memory_is_simulated_where_no_such_heap_is_permitted_or_suits() -> None:
    camera = who("camera", RW, physically_contiguous_required=True)
    for others in ([who("p", RW, OTHER, SYSTEM)], [who("p", RO)]):
        assert memory_of(agreed(camera, *others)).heap == heap(SYSTEM)


def test_or_refused() -> None:
    platform = Platform(heaps=(CMA, OTHER), contiguous="refuse")
    camera = who("camera", RW, physically_contiguous_required=True)
    assert memory_of(agreed(camera, platform=platform)).heap == heap(CMA)
    result = aggregate([camera, who("p", RO)], platform)
    assert isinstance(result, Refusal)
    assert result.rule is Rule.CONTIGUOUS_REFUSED


def test_secure_memory_is_not_looked_for_among_contiguous_heaps() -> None:
    secure = HeapProperties("test.secure", secure=True)
    platform = Platform(heaps=(CMA, secure))
    needs = BufferMemoryConstraints(
        min_size_bytes=4096,
        secure_required=True,
        physically_contiguous_required=True,
        inaccessible_domain_supported=True,
    )
    usage = BufferUsage(video=VideoUsage.CAPTURE)
    camera = Participant(wants(buffer_memory_constraints=needs, usage=usage), "camera")
    assert memory_of(agreed(camera, platform=platform)).heap == heap(secure)


def test_what_the_domain_lacks_is_blamed_on_the_wish_for_contiguous_memory() -> None:
    cpu = HeapProperties("test.cpu", 0, frozenset({CoherencyDomain.CPU}), contiguous=True)
    total = normalise(who("camera", RW, physically_contiguous_required=True), PLATFORM)
    assert heap_fields(total, cpu) == ("buffer_memory_constraints.physically_contiguous_required",)


def test_who_attaches_later_must_have_handles_like_the_others() -> None:
    camera = who("camera", RW, DMA)
    joining = Joining([camera], agreed(camera), PLATFORM)
    late = Participant(wants(count=None), "late", access=RW)
    assert joining.attempt([late]) is None
    refusal = joining.attempt([Participant(wants(count=None), "late", access=RO)])
    assert refusal is not None
    assert refusal.rule is Rule.ONE_FILE_HEAP
