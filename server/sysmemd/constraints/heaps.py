"""Heap and coherency domain (`spec/constraints.md` 5.2 and 5.3)."""

from __future__ import annotations

from sysmem_protocol.sysmem2 import CoherencyDomain

from .model import SYSTEM_HEAP, HeapProperties, Platform
from .normalise import Needs
from .rules import Breach, Rule

_SECURE = "buffer_memory_constraints.secure_required"
_HEAPS = "buffer_memory_constraints.permitted_heaps"
DOMAIN_FIELDS = tuple(
    f"buffer_memory_constraints.{name}_domain_supported" for name in ("cpu", "ram", "inaccessible")
)


def supported_domains(needs: Needs) -> frozenset[CoherencyDomain]:
    """The domains that the participants support."""
    flags = (
        (CoherencyDomain.CPU, needs.cpu_domain),
        (CoherencyDomain.RAM, needs.ram_domain),
        (CoherencyDomain.INACCESSIBLE, needs.inaccessible_domain),
    )
    return frozenset(domain for domain, supported in flags if supported)


def choose_heap(total: Needs, platform: Platform) -> HeapProperties:
    """Secure required: the permitted secure heap with the alphabetically first type (of several, the smallest id).

    Else the system heap if permitted, else the first permitted one that is configured and supports a domain that the
    participants support.
    """
    permitted = tuple(platform.heaps_by_key) if total.heaps is None else total.heaps
    configured = [platform.heaps_by_key[key] for key in permitted if key in platform.heaps_by_key]
    if total.secure:
        secure = [heap for heap in configured if heap.secure]
        if not secure:
            raise Breach(Rule.NO_SECURE_HEAP, (_SECURE, _HEAPS))
        return min(secure, key=lambda heap: heap.key)
    if SYSTEM_HEAP in permitted:
        return platform.heaps_by_key[SYSTEM_HEAP]
    domains = supported_domains(total)
    for heap in configured:
        if heap.domains & domains:
            return heap
    raise Breach(Rule.NO_HEAP, (_HEAPS, *DOMAIN_FIELDS))


def choose_domain(total: Needs, heap: HeapProperties) -> CoherencyDomain:
    """RAM for a display if it can be; else the first of CPU, RAM, INACCESSIBLE that heap and participants support."""
    common = heap.domains & supported_domains(total)
    if total.usage.display and CoherencyDomain.RAM in common:
        return CoherencyDomain.RAM
    for domain in CoherencyDomain:
        if domain in common:
            return domain
    names = ", ".join(sorted(domain.name for domain in heap.domains))
    fields = tuple(DOMAIN_FIELDS[domain] for domain in sorted(heap.domains))
    detail = f"heap {heap.heap_type} supports {names}"
    raise Breach(Rule.NO_COMMON_DOMAIN, (*heap_fields(total, heap), *fields), detail)


def heap_fields(total: Needs, heap: HeapProperties) -> tuple[str, ...]:
    """The fields that led to this heap; none for the system heap, which needs no reason."""
    if total.secure:
        return (_SECURE,)
    return () if heap.key == SYSTEM_HEAP else (_HEAPS,)
