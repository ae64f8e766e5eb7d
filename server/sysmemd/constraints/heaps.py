"""Heap and coherency domain (`docs/spec/constraints.md`, sections 5.2 and 5.3)."""

from __future__ import annotations

from sysmem_protocol.sysmem2 import CoherencyDomain

from .model import SYSTEM_HEAP, Access, HeapProperties, Platform
from .normalise import Needs
from .rules import Breach, Rule

_SECURE = "buffer_memory_constraints.secure_required"
CONTIGUOUS = "buffer_memory_constraints.physically_contiguous_required"
_HEAPS = "buffer_memory_constraints.permitted_heaps"
DOMAIN_FIELDS = tuple(
    f"buffer_memory_constraints.{name}_domain_supported" for name in ("cpu", "ram", "inaccessible")
)


def supported_domains(needs: Needs) -> frozenset[CoherencyDomain]:
    """Return the domains that the participants support."""
    flags = (
        (CoherencyDomain.CPU, needs.cpu_domain),
        (CoherencyDomain.RAM, needs.ram_domain),
        (CoherencyDomain.INACCESSIBLE, needs.inaccessible_domain),
    )
    return frozenset(domain for domain, supported in flags if supported)


def choose_heap(total: Needs, platform: Platform) -> HeapProperties:
    """Return the heap for the buffers. Raises `Breach` if there is none.

    If secure memory is required, it is the permitted secure heap with the alphabetically first type, and of several the
    smallest id. If contiguous memory is required, it is the first permitted contiguous heap, if there is one. Otherwise
    it is the system heap if permitted, else the first permitted one that is configured and supports a domain that the
    participants support. A heap whose buffers cannot have the participants' handles is skipped.
    """
    if total.secure:
        secure = [heap for heap in permitted_heaps(total, platform) if heap.secure]
        if not secure:
            raise Breach(Rule.NO_SECURE_HEAP, (_SECURE, _HEAPS))
        return min(secure, key=lambda heap: heap.key)
    contiguous = contiguous_heap(total, platform)
    if contiguous is not None:
        return contiguous
    if total.heaps is None or SYSTEM_HEAP in total.heaps:
        return platform.heaps_by_key[SYSTEM_HEAP]
    possible = _possible(total, platform)
    if not possible:
        raise Breach(Rule.NO_HEAP, (_HEAPS, *DOMAIN_FIELDS))
    for heap in possible:
        if heap.suits(total.access):
            return heap
    detail = f"heap {possible[0].heap_type}, and {access_words(total.access)}"
    raise Breach(Rule.ONE_FILE_HEAP, (_HEAPS,), detail)


def contiguous_heap(total: Needs, platform: Platform) -> HeapProperties | None:
    """Return the usable heap with contiguous memory if that is required; None if there is none."""
    if not total.contiguous or total.secure:
        return None
    heaps = _possible(total, platform)
    return next((heap for heap in heaps if heap.contiguous and heap.suits(total.access)), None)


def permitted_heaps(total: Needs, platform: Platform) -> list[HeapProperties]:
    """Return the configured heaps that all participants permit, in the participants' order if they have one."""
    permitted = tuple(platform.heaps_by_key) if total.heaps is None else total.heaps
    return [platform.heaps_by_key[key] for key in permitted if key in platform.heaps_by_key]


def _possible(total: Needs, platform: Platform) -> list[HeapProperties]:
    """Return the permitted heaps that support a domain that the participants support."""
    domains = supported_domains(total)
    return [heap for heap in permitted_heaps(total, platform) if heap.domains & domains]


def access_words(access: Access) -> str:
    """Return a description of handles that a single open file cannot provide."""
    if Access.WEAK in access:
        return "a participant is weak"
    return "some participants may write, others only read"


def choose_domain(total: Needs, heap: HeapProperties) -> CoherencyDomain:
    """Return the domain: RAM for a display if possible, otherwise the first supported one of CPU, RAM, INACCESSIBLE."""
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
    """Return the fields that led to this heap; none for the system heap, which is the default."""
    if total.secure:
        return (_SECURE,)
    if total.contiguous and heap.contiguous:
        return (CONTIGUOUS,)
    return () if heap.key == SYSTEM_HEAP else (_HEAPS,)
