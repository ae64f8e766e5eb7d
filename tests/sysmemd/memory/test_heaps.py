"""Heaps as plain data and their limits; `docs/spec/linux.md`, "Heaps"."""

from __future__ import annotations

import os

import pytest

from sysmem_protocol.sysmem2 import CoherencyDomain
from sysmemd.memory import SYSTEM_RAM, HeapSettings, MemfdHeap
from sysmemd.ports import NoMemoryError

from .harness import PAGE

CPU, RAM, INACCESSIBLE = CoherencyDomain


def test_the_system_heap_supports_all_domains() -> None:
    assert SYSTEM_RAM.heap_type == "fuchsia.sysmem.heap.HEAP_TYPE.SYSTEM_RAM"
    assert SYSTEM_RAM.id == 0
    assert SYSTEM_RAM.domains == {CPU, RAM, INACCESSIBLE}
    assert not SYSTEM_RAM.secure
    assert SYSTEM_RAM.max_bytes is None


@pytest.mark.parametrize("domains", [frozenset(CoherencyDomain), frozenset({INACCESSIBLE})])
def test_a_secure_heap_supports_the_inaccessible_domain_only(
    domains: frozenset[CoherencyDomain],
) -> None:
    assert HeapSettings("tee", domains=domains, secure=True).domains == {INACCESSIBLE}


def test_a_heap_of_one_domain() -> None:
    assert HeapSettings("gpu", domains=frozenset({RAM})).domains == {RAM}


@pytest.mark.parametrize(("domains", "secure"), [(set(), False), ({CPU, RAM}, True)])
def test_a_heap_supports_at_least_one_domain(domains: set[CoherencyDomain], secure: bool) -> None:
    with pytest.raises(ValueError, match=r"heap tee \(id 0\): a heap supports at least one domain"):
        HeapSettings("tee", domains=frozenset(domains), secure=secure)


def test_a_limit_counts_what_exists() -> None:
    heap = MemfdHeap(HeapSettings("gpu", 5, max_bytes=3 * PAGE))
    with heap.allocate("a", 2 * PAGE):
        assert heap.used_bytes == 2 * PAGE
    with pytest.raises(NoMemoryError, match=r"heap gpu \(id 5\): 8192 more bytes would pass"):
        heap.allocate("b", 2 * PAGE)
    with heap.allocate("c", PAGE):
        pass
    heap.delete(2 * PAGE)
    with heap.allocate("d", 2 * PAGE):
        assert repr(heap) == "<MemfdHeap heap gpu (id 5), 12288 bytes in use>"
    heap.limit(PAGE)
    assert heap.properties == HeapSettings("gpu", 5, max_bytes=PAGE)
    with pytest.raises(NoMemoryError, match="limit of 4096, 12288 are in use"):
        heap.allocate("e", PAGE)
    heap.limit(None)
    heap.allocate("e", PAGE).close()


def test_pages_of_a_part_can_be_taken_at_once() -> None:
    heap = MemfdHeap()
    with heap.allocate("a", 8 * PAGE) as handle:
        heap.reserve(handle, 2 * PAGE, 3 * PAGE)
        assert os.fstat(handle.fileno()).st_blocks * 512 == 3 * PAGE
