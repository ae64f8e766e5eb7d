"""Defaults and checks for one participant's constraints (`docs/spec/constraints.md`, section 1).

The given tables are not modified. A breach names the participant's own field, with the index under which it was sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import add, and_, or_
from typing import Annotated, TypeVar

from sysmem_protocol.formats import Traits
from sysmem_protocol.sizes import U32_MAX, U64_MAX
from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    Heap,
    ImageFormatConstraints,
)

from ..pause import giving_way
from .entry import Entry, adjust, traits_of
from .finish import undominated
from .flatten import flatten
from .model import Access, HeapKey, Participant, Platform
from .rules import Breach, Rule
from .terms import Combined, Terms, declared, read_terms
from .usage import NO_USAGE, NONE, PERMIT_ALLOCATION, UsageBits

_MEMORY = "buffer_memory_constraints"


@dataclass(slots=True)
class Needs:
    """The needs of one participant, or of all together. Un-set fields have their defaults."""

    usage: Annotated[UsageBits, Combined("usage", or_)]
    camping: Annotated[int, Combined("min_buffer_count_for_camping", add)]
    dedicated_slack: Annotated[int, Combined("min_buffer_count_for_dedicated_slack", add)]
    shared_slack: Annotated[int, Combined("min_buffer_count_for_shared_slack", max)]
    min_buffer_count: Annotated[int, Combined("min_buffer_count", max)]
    max_buffer_count: Annotated[int, Combined("max_buffer_count", min)]
    min_size_bytes: Annotated[int, Combined(f"{_MEMORY}.min_size_bytes", max)]
    max_size_bytes: Annotated[int, Combined(f"{_MEMORY}.max_size_bytes", min)]
    contiguous: Annotated[bool, Combined(f"{_MEMORY}.physically_contiguous_required", or_)]
    secure: Annotated[bool, Combined(f"{_MEMORY}.secure_required", or_)]
    min_physical_base_alignment: Annotated[
        int, Combined(f"{_MEMORY}.min_physical_base_alignment", max)
    ]
    cpu_domain: Annotated[bool, Combined(f"{_MEMORY}.cpu_domain_supported", and_)]
    ram_domain: Annotated[bool, Combined(f"{_MEMORY}.ram_domain_supported", and_)]
    inaccessible_domain: Annotated[bool, Combined(f"{_MEMORY}.inaccessible_domain_supported", and_)]
    #: The part of `max_size_bytes` that limits padding: pinned entries are ignored.
    max_padded_bytes: Annotated[int, Combined("", min)]
    access: Annotated[Access, Combined("", or_)]
    #: None permits any heap. It combines by :func:`.fold.intersect_heaps`.
    heaps: tuple[HeapKey, ...] | None
    entries: list[Entry]


#: The fields of :class:`Needs` that combine without failing; those without a name are in no table.
NEEDS = tuple(declared(Needs))


def asks_for_a_size(constraints: BufferCollectionConstraints | None) -> bool:
    """Return whether constraints ask for a size (step 0): min_size_bytes, or an image size with both members over 0."""
    if constraints is None:
        return False
    memory = constraints.buffer_memory_constraints
    if memory is not None and memory.min_size_bytes:
        return True
    return any(
        size is not None and size.width and size.height
        for entry in constraints.image_format_constraints or ()
        for size in (
            entry.min_size,
            entry.required_max_size,
            *(entry.required_max_size_list or ()),
        )
    )


def normalise(
    participant: Participant, platform: Platform, *, settings_only: bool = False
) -> Needs:
    """Return the needs of one participant (section 1). Raises `Breach` if its constraints cannot be satisfied.

    With `settings_only`, counts and missing usage are ignored. The result is cached in the participant for its next
    aggregation.
    """
    memo = participant.memo
    if memo and memo[0] is platform and memo[1] is settings_only:
        known = memo[2]
    else:
        try:
            known = _normalise(participant, platform, settings_only=settings_only)
        except Breach as breach:
            known = breach.again()
        memo[:] = (platform, settings_only, known)
    if isinstance(known, Breach):
        raise known.again()
    needs: Needs = known
    return needs


def _normalise(participant: Participant, platform: Platform, *, settings_only: bool) -> Needs:
    table = participant.constraints or BufferCollectionConstraints()
    empty = next(table.set_fields(), None) is None
    usage = NO_USAGE if empty else UsageBits.of(table.usage)
    if settings_only and not any(usage):
        usage = NO_USAGE
    _check_usage(usage)
    needs = _defaults(table, usage, participant.access)
    if participant.pinned:
        # Delivered settings have already been checked and adjusted. Adjusting them again could only change them.
        needs.max_padded_bytes = U64_MAX
        needs.entries = _pinned_entries(table.image_format_constraints or ())
        return needs
    if not settings_only:
        check_counts(needs)
        if needs.max_buffer_count == 0:
            raise Breach(Rule.MAX_COUNT_ZERO, "max_buffer_count", "0")
    check_memory(needs)
    _check_participant_memory(table, needs, platform)
    needs.entries = _entries(
        table.image_format_constraints or (), platform.page_size, uses=usage.uses
    )
    return needs


def _check_usage(usage: UsageBits) -> None:
    if not any(usage):
        raise Breach(Rule.USAGE_MISSING, "usage")
    if usage.none and usage.uses:
        raise Breach(Rule.NONE_EXCLUDES_USAGE, "usage")
    if usage.none & PERMIT_ALLOCATION and not usage.none & NONE:
        raise Breach(Rule.PERMIT_REQUIRES_NONE, "usage.none", str(usage.none))


def _defaults(table: BufferCollectionConstraints, usage: UsageBits, access: Access) -> Needs:
    """Return the needs without the image entries, with the defaults of the table."""
    memory = table.buffer_memory_constraints or BufferMemoryConstraints()
    secure = bool(memory.secure_required)
    contiguous = bool(memory.physically_contiguous_required)
    max_size = _default(memory.max_size_bytes, U64_MAX)
    heaps = memory.permitted_heaps
    return Needs(
        usage=usage,
        camping=table.min_buffer_count_for_camping or 0,
        dedicated_slack=table.min_buffer_count_for_dedicated_slack or 0,
        shared_slack=table.min_buffer_count_for_shared_slack or 0,
        min_buffer_count=table.min_buffer_count or 0,
        max_buffer_count=_default(table.max_buffer_count, U32_MAX),
        min_size_bytes=memory.min_size_bytes or 0,
        max_size_bytes=max_size,
        max_padded_bytes=max_size,
        contiguous=contiguous,
        secure=secure,
        min_physical_base_alignment=_default(memory.min_physical_base_alignment, int(contiguous)),
        cpu_domain=_default(memory.cpu_domain_supported, not secure),
        ram_domain=_default(memory.ram_domain_supported, not secure and usage.cpu == 0),
        inaccessible_domain=_default(memory.inaccessible_domain_supported, usage.cpu == 0),
        heaps=None if heaps is None else tuple(map(_heap_key, heaps)),
        access=access,
        entries=[],
    )


_T = TypeVar("_T")


def _default(value: _T | None, default: _T) -> _T:
    return default if value is None else value


def _heap_key(heap: Heap) -> HeapKey:
    if heap.heap_type is None:
        raise Breach(Rule.HEAP_TYPE_MISSING, f"{_MEMORY}.permitted_heaps")
    return (heap.heap_type, heap.id or 0)


def check_counts(needs: Needs) -> None:
    """Check min_buffer_count ≤ max_buffer_count. Also a check on the aggregate."""
    if needs.min_buffer_count > needs.max_buffer_count:
        detail = f"{needs.min_buffer_count} > {needs.max_buffer_count}"
        raise Breach(Rule.MIN_COUNT_OVER_MAX, ("min_buffer_count", "max_buffer_count"), detail)


def check_memory(needs: Needs) -> None:
    """Check min_size_bytes ≤ max_size_bytes. Also a check on the aggregate."""
    if needs.min_size_bytes > needs.max_size_bytes:
        fields = (f"{_MEMORY}.min_size_bytes", f"{_MEMORY}.max_size_bytes")
        detail = f"{needs.min_size_bytes} > {needs.max_size_bytes}"
        raise Breach(Rule.MIN_BYTES_OVER_MAX, fields, detail)


def _check_participant_memory(
    table: BufferCollectionConstraints, needs: Needs, platform: Platform
) -> None:
    """Check the memory constraints of a single participant."""
    memory = table.buffer_memory_constraints or BufferMemoryConstraints()
    alignment = memory.min_physical_base_alignment
    if alignment is not None:
        field = f"{_MEMORY}.min_physical_base_alignment"
        if not needs.contiguous:
            raise Breach(Rule.ALIGNMENT_NEEDS_CONTIGUOUS, field, str(alignment))
        if alignment == 0 or alignment & (alignment - 1):
            raise Breach(Rule.POWER_OF_2, field, str(alignment))
    if needs.heaps is not None and not needs.heaps:
        raise Breach(Rule.HEAPS_EMPTY, f"{_MEMORY}.permitted_heaps")
    secure = f"{_MEMORY}.secure_required"
    if needs.usage.cpu:
        if needs.secure:
            raise Breach(Rule.CPU_USAGE_FORBIDS_SECURE, ("usage.cpu", secure))
        if not (needs.cpu_domain or needs.ram_domain):
            cpu_fields = (
                "usage.cpu",
                f"{_MEMORY}.cpu_domain_supported",
                f"{_MEMORY}.ram_domain_supported",
            )
            raise Breach(Rule.CPU_USAGE_NEEDS_DOMAIN, cpu_fields)
    if not needs.secure:
        return
    for supported, name in ((needs.cpu_domain, "cpu"), (needs.ram_domain, "ram")):
        if supported:
            fields = (secure, f"{_MEMORY}.{name}_domain_supported")
            raise Breach(Rule.SECURE_FORBIDS_DOMAIN, fields)
    if not needs.inaccessible_domain:
        fields = (secure, f"{_MEMORY}.inaccessible_domain_supported")
        raise Breach(Rule.SECURE_NEEDS_INACCESSIBLE, fields)
    permitted = platform.heaps_by_key if needs.heaps is None else needs.heaps
    configured = platform.heaps_by_key
    if not any(key in configured and configured[key].secure for key in permitted):
        raise Breach(Rule.SECURE_NEEDS_HEAP, (secure, f"{_MEMORY}.permitted_heaps"))


def _entries(sent: Sequence[ImageFormatConstraints], page_size: int, *, uses: bool) -> list[Entry]:
    """Return the entries flattened, checked and adjusted. Formats with equal traits share one source entry's terms."""
    entries: list[Entry] = []
    raw: dict[int, Terms] = {}
    adjusted: dict[tuple[int, Traits | None], Terms] = {}
    for pixel_format, modifier, source, _ in giving_way(flatten(sent, uses=uses), 4):
        of = traits_of((pixel_format, modifier))
        terms = adjusted.get((source, of))
        if terms is None:
            try:
                if source not in raw:
                    raw[source] = read_terms(sent[source])
                terms = adjust(raw[source], of, page_size)
            except Breach as breach:
                breach.entry = source
                breach.pair = (pixel_format, modifier)
                raise
            # Covered sizes never matter later (section 3), and fewer sizes make the fold cheaper.
            terms = terms._replace(required_max_sizes=undominated(terms.required_max_sizes))
            adjusted[source, of] = terms
        entries.append(Entry(pixel_format, modifier, terms, source))
    return entries


def _pinned_entries(sent: Sequence[ImageFormatConstraints]) -> list[Entry]:
    """Return delivered image format constraints unchanged: one format and modifier, and every field set."""
    return [
        Entry(
            int(entry.pixel_format or 0),
            int(entry.pixel_format_modifier or 0),
            read_terms(entry),
            i,
        )
        for i, entry in giving_way(enumerate(sent))
    ]
