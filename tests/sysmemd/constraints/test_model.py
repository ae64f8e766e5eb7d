"""The inputs: heaps and the platform."""

from __future__ import annotations

from sysmem_protocol.sysmem2 import SYSTEM_RAM_HEAP, CoherencyDomain
from sysmemd.constraints import HeapProperties, Participant, Platform
from sysmemd.constraints.model import SYSTEM_HEAP

from .support import DEVICE_HEAP, SECURE_HEAP


def test_the_system_heap_always_exists_and_supports_all_domains() -> None:
    assert (SYSTEM_RAM_HEAP.heap_type, SYSTEM_RAM_HEAP.id) == SYSTEM_HEAP
    assert Platform().heaps_by_key[SYSTEM_HEAP].domains == set(CoherencyDomain)
    assert [heap.key for heap in Platform(heaps=(DEVICE_HEAP,)).heaps] == [
        SYSTEM_HEAP,
        DEVICE_HEAP.key,
    ]


def test_a_secure_heap_supports_the_inaccessible_domain_only() -> None:
    assert SECURE_HEAP.domains == {CoherencyDomain.INACCESSIBLE}
    odd = HeapProperties("odd", 0, frozenset({CoherencyDomain.CPU}), secure=True)
    assert odd.domains == {CoherencyDomain.INACCESSIBLE}


def test_participants_are_named_for_people() -> None:
    assert str(Participant(None, "camera", 7)) == "camera (7)"
    assert str(Participant(None)) == "unnamed client (0)"
    assert str(Participant(None, "a\nb\u2028é", 1)) == r"a\nb\u2028\xe9 (1)"
