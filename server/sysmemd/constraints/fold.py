"""Combines the constraints of several participants (`docs/spec/constraints.md`, section 2).

The cost is linear in the entries of both sides: the partners of a DO_NOT_CARE are looked up, not searched, and pairs of
entries that share their terms are combined once.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from sysmem_protocol.formats import (
    FORMAT_DO_NOT_CARE,
    MODIFIER_DO_NOT_CARE,
    PIXELS,
    Traits,
    layout,
)
from sysmem_protocol.sizes import U32_MAX

from ..pause import giving_way
from .entry import DIVISOR_FIELDS, Entry, traits_of
from .finish import undominated
from .flatten import combine_pairs
from .model import HeapKey
from .normalise import NEEDS, Needs
from .rules import Breach, Rule
from .terms import Terms, combine_fields

#: The maximum number of entries after filling in. There are fewer supported pairs with standard names.
MAX_ENTRIES = 512

#: The maximum number of required sizes of an entry during folding before covered ones are removed. Section 3 prunes
#: again.
MAX_UNPRUNED_SIZES = 1024


def fold(needs: Sequence[Needs]) -> Needs:
    """Combine needs in order. Raises `Breach` if an intersection is empty. `needs` has at least one element."""
    total = replace(needs[0], min_size_bytes=max(needs[0].min_size_bytes, 1))
    for more in giving_way(needs[1:], 1):
        fold_fields(total, more)
        total.heaps = intersect_heaps(total.heaps, more.heaps)
        if not total.entries:
            total.entries = more.entries
        elif more.entries:
            total.entries = intersect(total.entries, more.entries)
    return total


_COMBINED = tuple((field.attribute, field.combined.combine) for field in NEEDS)


def fold_fields(total: Needs, more: Needs) -> None:
    """Combine the fields that always can be combined, in place."""
    for name, combine in _COMBINED:
        setattr(total, name, combine(getattr(total, name), getattr(more, name)))


def intersect_heaps(
    a: tuple[HeapKey, ...] | None, b: tuple[HeapKey, ...] | None
) -> tuple[HeapKey, ...] | None:
    """Return the heaps that both lists permit, in the order of the first one that is given."""
    if a is None or b is None:
        return b if a is None else a
    permitted = set(b)
    common = tuple(heap for heap in a if heap in permitted)
    if not common:
        raise Breach(Rule.NO_COMMON_HEAP, "buffer_memory_constraints.permitted_heaps")
    return common


# --- image entries ------------------------------------------------------------------------------------------------


def intersect(a: Sequence[Entry], b: Sequence[Entry]) -> list[Entry]:
    """Return the intersection of both lists. First DO_NOT_CAREs are filled in from the other list.

    A format whose combination fails is dropped. Raises `Breach` if none is left, or if filling in leads to more than
    512 entries on one side. The order is that of `a`.
    """
    losses: list[Breach] = []
    a = _fill(a, b, losses)
    b = _fill(b, a, losses)
    others = {entry.pair: entry.terms for entry in giving_way(b, 256)}
    done: dict[tuple[int, int, int], Terms | Breach] = {}
    common: list[Entry] = []
    for entry in giving_way(a):
        terms = others.get(entry.pair)
        if terms is None:
            continue
        stride = PIXELS[entry.pixel_format].stride_bytes if entry.pixel_format in PIXELS else 0
        key = (id(entry.terms), id(terms), stride)
        result = done.get(key)
        if result is None:
            result = done[key] = combine(entry.terms, terms, stride)
        if isinstance(result, Breach):
            result.pair = result.pair or entry.pair  # the first one's, because that one is told
            losses.append(result)
        else:
            common.append(Entry(entry.pixel_format, entry.modifier, result))
    if not common:
        raise losses[0] if losses else Breach(Rule.NO_COMMON_FORMAT, "pixel_format")
    return common


def _fill(entries: Sequence[Entry], others: Sequence[Entry], losses: list[Breach]) -> list[Entry]:
    """Replace each entry that has a DO_NOT_CARE by one copy per entry of `others` that it can be combined with."""
    filled: list[Entry] = []
    partners = _Partners(others if any(entry.wildcard for entry in entries) else ())
    narrowed: dict[tuple[int, frozenset[int]], Terms] = {}
    for entry in giving_way(entries):
        if not entry.wildcard:
            filled.append(entry)
        else:
            for other in giving_way(partners.of(entry)):
                pair = combine_pairs(entry.pair, other.pair)
                if pair is None:
                    continue
                terms = _narrow(entry.terms, traits_of(pair), narrowed)
                if terms.color_spaces is not None and not terms.color_spaces:
                    breach = Breach(Rule.NO_COMMON_COLOR_SPACE, "color_spaces")
                    breach.pair = pair
                    losses.append(breach)
                    continue
                filled.append(Entry(*pair, terms, entry.source))
                if len(filled) > MAX_ENTRIES:
                    break
        if len(filled) > MAX_ENTRIES:
            raise Breach(Rule.TOO_MANY_FORMATS, "pixel_format")
    return filled


class _Partners:
    """Looks up the entries that an entry with a DO_NOT_CARE member might be combined with.

    Formats and modifiers that take part in a supported pair are few. Any other number can only be combined with itself
    and with entries in which both members are open.
    """

    def __init__(self, others: Sequence[Entry]) -> None:
        self._others = others
        self._by_format: dict[int, list[Entry]] = {}
        self._by_modifier: dict[int, list[Entry]] = {}
        #: Entries with an open format, and entries with an open modifier, whose other member is known or open too.
        self._open_formats: list[Entry] = []
        self._open_modifiers: list[Entry] = []
        self._open: list[Entry] = []
        for other in giving_way(others, 64):
            self._by_format.setdefault(other.pixel_format, []).append(other)
            self._by_modifier.setdefault(other.modifier, []).append(other)
            open_format = other.pixel_format == FORMAT_DO_NOT_CARE
            open_modifier = other.modifier == MODIFIER_DO_NOT_CARE
            if open_format and open_modifier:
                self._open.append(other)
            if open_format and (open_modifier or layout(other.modifier) is not None):
                self._open_formats.append(other)
            if open_modifier and (open_format or other.pixel_format in PIXELS):
                self._open_modifiers.append(other)

    def of(self, entry: Entry) -> Iterator[Entry]:
        """Yield the candidates for one entry."""
        pixel_format, modifier = entry.pair
        if pixel_format != FORMAT_DO_NOT_CARE:
            yield from self._by_format.get(pixel_format, ())
            yield from self._open_formats if pixel_format in PIXELS else self._open
        elif modifier != MODIFIER_DO_NOT_CARE:
            yield from self._by_modifier.get(modifier, ())
            yield from self._open if layout(modifier) is None else self._open_modifiers
        else:
            yield from self._others


def _narrow(
    terms: Terms, of: Traits | None, narrowed: dict[tuple[int, frozenset[int]], Terms]
) -> Terms:
    """Drop the colour spaces that a format does not support after it became specific."""
    if of is None or terms.color_spaces is None or terms.color_spaces <= of.color_spaces:
        return terms
    key = (id(terms), of.color_spaces)
    if key not in narrowed:
        narrowed[key] = terms._replace(color_spaces=terms.color_spaces & of.color_spaces)
    return narrowed[key]


def combine(a: Terms, b: Terms, stride_bytes: int) -> Terms | Breach:
    """Combine two participants' terms for one format field by field, or return why the format is dropped.

    `stride_bytes` are those per width pixel. They are only needed for block padding, which requires a specific format.
    """
    if a is b:
        # Every combination is idempotent.
        return a
    try:
        terms = combine_fields(a, b)
    except Breach as breach:
        return breach
    divisor = terms.bytes_per_row_divisor
    if terms.pad_width > 1:
        divisor = math.lcm(divisor, stride_bytes * terms.pad_width)
    if divisor > U32_MAX:
        return Breach(Rule.DIVISOR_OVER_32_BITS, DIVISOR_FIELDS, str(divisor))
    sizes = terms.required_max_sizes
    if len(sizes) > MAX_UNPRUNED_SIZES:
        sizes = undominated(sizes)
    return terms._replace(bytes_per_row_divisor=divisor, required_max_sizes=sizes)
