"""The explanation of a success: the participants that decided the count, the size and the other settings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from sysmem_protocol.formats import (
    COLOR_PREFERENCE,
    color_name,
    is_compatible_with_protected_memory,
    pair_name,
    traits,
)
from sysmem_protocol.sysmem2 import CoherencyDomain, Heap

from ..constraints.cost import DEFAULT_COST, format_cost
from ..constraints.entry import Entry
from ..constraints.heaps import DOMAIN_FIELDS, access_words, supported_domains
from ..constraints.model import SYSTEM_HEAP, Allocation, Case, HeapKey, Participant
from ..constraints.settings import COUNT_FIELDS, kept_and_slack, largest_image
from ..constraints.terms import Terms, read_terms
from .fields import Brought, deciding, values
from .involved import makers
from .report import CELL_WIDTH, MAX_VERDICTS, case_table, format_lines
from .survey import combined_fields, terms_for, verdicts
from .words import show

_MEMORY = "buffer_memory_constraints"


@dataclass(frozen=True, slots=True)
class Because:
    """One setting, its value, the reason, and the values that decided it."""

    setting: str
    result: str
    why: str
    values: tuple[Brought, ...] = ()

    def __str__(self) -> str:
        brought = "; ".join(str(value) for value in self.values)
        return f"{self.setting} = {self.result}: {self.why}{f': {brought}' if brought else ''}"


@dataclass(frozen=True, slots=True)
class Explanation:
    """The reasons of one allocation. `str()` returns a line for each."""

    reasons: tuple[Because, ...]
    case: Case = field(repr=False)
    pair: tuple[int, int] | None = None

    def __str__(self) -> str:
        return "\n".join(str(reason) for reason in self.reasons)

    def report(self, width: int = CELL_WIDTH) -> str:
        """Return the reasons, then the table of all fields."""
        settings = [(reason.setting, reason.result) for reason in self.reasons]
        table = case_table(self.case, self.pair, settings=settings, width=width)
        return "\n".join([str(self), "", table, *format_lines(self.case)])


def explain(allocation: Allocation) -> Explanation:
    """Return the reason for each setting. Raises `ValueError` if the allocation is not the result of an aggregation."""
    case = allocation.case
    memory = allocation.settings.buffer_settings
    if case is None or memory is None:
        raise ValueError("only the result of an aggregation can be explained")
    image = allocation.settings.image_format_constraints
    pair = None
    if image is not None:
        assert image.pixel_format is not None
        assert image.pixel_format_modifier is not None
        pair = (int(image.pixel_format), int(image.pixel_format_modifier))
    reasons = [
        _count(allocation, case),
        *_sizes(allocation, case, pair),
        _heap(allocation, case),
        _domain(allocation, case),
        *_flags(allocation, case),
    ]
    if pair is not None:
        reasons += [_format(case, pair, secure_heap=_is_secure_heap(allocation, case))]
        reasons += [_color_space(allocation, case, pair)]
    return Explanation(tuple(reasons), case, pair)


def _count(allocation: Allocation, case: Case) -> Because:
    total = combined_fields(case)
    assert total is not None
    result = str(allocation.buffer_count)
    if case.settings_only:
        return Because("buffer_count", result, "buffer counts are left out of account")
    if total.min_buffer_count > kept_and_slack(total):
        brought = deciding("min_buffer_count", None, case)
        return Because("buffer_count", result, "the largest min_buffer_count", brought)
    why = (
        f"{total.camping} camping + {total.dedicated_slack} dedicated slack"
        f" + {total.shared_slack} shared slack"
    )
    counts = tuple(value for name in COUNT_FIELDS[:3] for value in deciding(name, None, case))
    return Because("buffer_count", result, why, counts)


def _sizes(allocation: Allocation, case: Case, pair: tuple[int, int] | None) -> Iterator[Because]:
    memory = allocation.settings.buffer_settings
    size, raw = memory.size_bytes, memory.raw_vmo_size
    padding = ""
    why, brought = "the largest min_size_bytes", deciding(f"{_MEMORY}.min_size_bytes", None, case)
    if pair is not None:
        terms = _delivered_terms(allocation)
        image = largest_image(Entry(*pair, terms))
        if image.size_bytes == size:
            why = f"an image of {image}"
            brought = tuple(makers(case, pair, image))
        pads = ("pad_for_block_size.width", "pad_for_block_size.height")
        padded = tuple(
            value
            for name in (*pads, "pad_beyond_image_size_bytes")
            for value in deciding(name, pair, case)
            if value.value > (1 if name in pads else 0)
        )
        if padded:
            padding = "padding, then "
    else:
        padded = ()
    yield Because("size_bytes", str(size), why, brought)
    why = f"{padding}rounded up to pages of {case.platform.page_size} bytes"
    yield Because("raw_vmo_size", str(raw), why, padded)


def _delivered_terms(allocation: Allocation) -> Terms:
    image = allocation.settings.image_format_constraints
    assert image is not None
    return read_terms(image)


def _heap(allocation: Allocation, case: Case) -> Because:
    memory = allocation.settings.buffer_settings
    result = show(memory.heap)
    chosen = _key(memory.heap)
    if memory.is_secure:
        return _secure_heap(case, chosen)
    if memory.is_physically_contiguous and case.platform.heaps_by_key[chosen].contiguous:
        brought = list(deciding(f"{_MEMORY}.physically_contiguous_required", None, case))
        return Because(
            "heap", result, "the first permitted heap that is contiguous", tuple(brought)
        )
    if chosen == SYSTEM_HEAP:
        return Because("heap", result, "everybody permits the system heap")
    total = combined_fields(case)
    assert total is not None
    assert total.heaps is not None
    brought = list(_who_excludes(SYSTEM_HEAP, case))
    whys = []
    for key in total.heaps[: total.heaps.index(chosen)]:
        properties = case.platform.heaps_by_key.get(key)
        if properties is None:
            whys.append(f"{_heap_name(key)} isn't configured")
            continue
        if properties.domains & supported_domains(total):
            one = f"{_heap_name(key)} has one open file for all handles to a buffer"
            whys.append(f"{one}, and {access_words(total.access)}")
            continue
        names = ", ".join(domain.name for domain in sorted(properties.domains))
        whys.append(f"{_heap_name(key)} has only {names}, which not everybody supports")
        for domain in sorted(properties.domains):
            brought += deciding(DOMAIN_FIELDS[domain], None, case)
    first = "the first permitted heap that can be used" if whys else "the first permitted heap"
    why = "; ".join([first, "the system heap is not permitted", *whys])
    return Because("heap", result, why, tuple(brought))


def _secure_heap(case: Case, chosen: HeapKey) -> Because:
    brought = list(deciding(f"{_MEMORY}.secure_required", None, case))
    whys = ["the alphabetically first secure heap that is permitted"]
    for key, properties in sorted(case.platform.heaps_by_key.items()):
        if properties.secure and key < chosen:
            whys.append(f"{_heap_name(key)} is not permitted")
            brought += _who_excludes(key, case)
    # One list may exclude several heaps.
    unique = {(id(value.participant), value.path): value for value in brought}
    return Because("heap", _heap_name(chosen), "; ".join(whys), tuple(unique.values()))


def _who_excludes(key: HeapKey, case: Case) -> Iterator[Brought]:
    lists = values(f"{_MEMORY}.permitted_heaps", None, case)
    yield from (value for value in lists if key not in map(_key, value.value))


def _heap_name(key: HeapKey) -> str:
    return show(Heap(heap_type=key[0], id=key[1]))


def _key(heap: Heap) -> HeapKey:
    return (heap.heap_type or "", heap.id or 0)


def _is_secure_heap(allocation: Allocation, case: Case) -> bool:
    memory = allocation.settings.buffer_settings
    return case.platform.heaps_by_key[_key(memory.heap)].secure


def _domain(allocation: Allocation, case: Case) -> Because:
    memory = allocation.settings.buffer_settings
    chosen = CoherencyDomain(memory.coherency_domain)
    displays = deciding("usage.display", None, case)
    if chosen is CoherencyDomain.RAM and displays:
        return Because("coherency_domain", chosen.name, "a display uses the buffers", displays)
    heap = case.platform.heaps_by_key[_key(memory.heap)]
    earlier = [domain for domain in CoherencyDomain if domain < chosen]
    whys = [f"the heap has no {domain.name}" for domain in earlier if domain not in heap.domains]
    brought = tuple(
        value
        for domain in earlier
        if domain in heap.domains
        for value in deciding(DOMAIN_FIELDS[domain], None, case)
    )
    if displays:
        reason = "a display would take RAM"
        if CoherencyDomain.RAM not in heap.domains:
            whys = [f"{reason}, but the heap has none", *(w for w in whys if "RAM" not in w)]
        else:
            whys.insert(0, f"{reason}, but not everybody supports it")
            if CoherencyDomain.RAM not in earlier:
                brought += deciding(DOMAIN_FIELDS[CoherencyDomain.RAM], None, case)
        brought += displays
    why = "; ".join(["the first domain that heap and participants support", *whys])
    return Because("coherency_domain", chosen.name, why, brought)


def _flags(allocation: Allocation, case: Case) -> Iterator[Because]:
    memory = allocation.settings.buffer_settings
    for setting, name, on in (
        ("is_secure", "secure_required", memory.is_secure),
        (
            "is_physically_contiguous",
            "physically_contiguous_required",
            memory.is_physically_contiguous,
        ),
    ):
        why = "required" if on else "nobody requires it"
        brought = deciding(f"{_MEMORY}.{name}", None, case)
        yield Because(setting, show(bool(on)), why, brought)


def _format(case: Case, pair: tuple[int, int], *, secure_heap: bool) -> Because:
    """Return the reason for the format, with the other common formats. The table has the excluded ones."""
    total = combined_fields(case)
    assert total is not None

    def cost(candidate: tuple[int, int]) -> str:
        number = format_cost(case.platform.cost_index, *candidate, total.usage)
        return "no cost given" if number == DEFAULT_COST else f"cost {number:g}"

    others = []
    for verdict in verdicts(case):
        if not verdict.common or verdict.pair == pair:
            continue
        if secure_heap and not is_compatible_with_protected_memory(verdict.pair[1]):
            others.append(f"{pair_name(verdict.pair)} can't live in protected memory")
        else:
            others.append(f"{pair_name(verdict.pair)} has {cost(verdict.pair)}")
    if not others:
        why = "the only format that everybody takes"
    else:
        shown = others[:MAX_VERDICTS]
        if len(others) > MAX_VERDICTS:
            shown.append(f"{len(others) - MAX_VERDICTS} more")
        why = f"the cheapest, {cost(pair)}, of equals the smallest number; {', '.join(shown)}"
    return Because("pixel_format", pair_name(pair), why)


def _color_space(allocation: Allocation, case: Case, pair: tuple[int, int]) -> Because:
    image = allocation.settings.image_format_constraints
    assert image is not None
    assert image.color_spaces is not None
    chosen = int(image.color_spaces[0])
    sent = list(terms_for(case, pair))
    excluded = []
    for space in COLOR_PREFERENCE[: COLOR_PREFERENCE.index(chosen)]:
        lists = [(who, terms.color_spaces) for who, terms in sent if terms.color_spaces is not None]
        if space in traits(*pair).color_spaces and any(space in spaces for _, spaces in lists):
            without = [who for who, spaces in lists if space not in spaces]
            excluded.append(f"{color_name(space)} is not accepted by {_names(without)}")
    why = "; ".join(["the most preferred that everybody takes", *excluded])
    return Because("color_space", color_name(chosen), why)


def _names(participants: Sequence[Participant]) -> str:
    return ", ".join(str(who) for who in participants)
