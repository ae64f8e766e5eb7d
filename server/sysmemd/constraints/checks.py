"""Checks on the aggregate (`docs/spec/constraints.md`, section 4).

The checks and adjustments of section 1 are applied to the combined constraints. Then formats and colour spaces that no
participant made specific are dropped, and one colour space is chosen. Unlike a failed combination, a failed check
refuses everything.
"""

from __future__ import annotations

from collections.abc import Sequence

from sysmem_protocol.formats import COLOR_RANK, Traits

from ..pause import giving_way
from .entry import Entry, adjust, delivered_terms, traits_of
from .normalise import Needs, check_counts, check_memory
from .rules import Breach, Rule
from .terms import Terms
from .usage import PERMIT_ALLOCATION

#: With block padding in height, max_size.width must be less than this.
PAD_MAX_WIDTH = 0x8000_0000


def check_aggregate(
    total: Needs,
    page_size: int,
    pinned: Sequence[Entry] = (),
    *,
    settings_only: bool = False,
    tolerate_absence: bool = False,
) -> None:
    """Check and adjust the combined needs in place. Raises `Breach` if a check fails.

    `pinned` are the entries of pins. A combined entry that would be delivered like one of them has already been
    adjusted, and is left unchanged. With `tolerate_absence`, missing usage, a missing specific format and a missing
    specific colour space are ignored.
    """
    permits = total.usage.none & PERMIT_ALLOCATION
    if not (total.usage.uses or permits or settings_only or tolerate_absence):
        raise Breach(Rule.NOBODY_USES, "usage")
    if not settings_only:
        check_counts(total)
    check_memory(total)
    if total.entries:
        entries = checked(total.entries, page_size, pinned)
        total.entries = _chosen(entries, tolerate_absence=tolerate_absence)


def checked(entries: list[Entry], page_size: int, pinned: Sequence[Entry]) -> list[Entry]:
    """Return the entries, each checked and adjusted as in section 1. Equal terms and traits are adjusted only once."""
    done: dict[tuple[int, Traits | None], Terms] = {}
    found: list[Entry] = []
    for entry in giving_way(entries):
        of = traits_of(entry.pair)
        if any(pin.pair == entry.pair and pin.terms == delivered_terms(entry) for pin in pinned):
            found.append(entry)
            continue
        key = (id(entry.terms), of)
        if key not in done:
            try:
                done[key] = _check(entry.terms, of, page_size)
            except Breach as breach:
                breach.pair = entry.pair
                raise
        found.append(entry._replace(terms=done[key]))
    return found


def _check(terms: Terms, of: Traits | None, page_size: int) -> Terms:
    adjusted = adjust(terms, of, page_size)
    if adjusted.pad_height > 1 and adjusted.max_width >= PAD_MAX_WIDTH:
        fields = ("pad_for_block_size.height", "max_size.width")
        raise Breach(Rule.PAD_MAX_WIDTH_31_BITS, fields, str(adjusted.max_width))
    return adjusted


def _chosen(entries: list[Entry], *, tolerate_absence: bool) -> list[Entry]:
    """Return the entries that a participant made specific, each with its most preferred colour space."""
    specific = [entry for entry in giving_way(entries, 64) if not entry.wildcard]
    if not (specific or tolerate_absence):
        raise Breach(Rule.FORMAT_LEFT_OPEN, "pixel_format")
    chosen: list[Entry] = []
    picked: dict[int, Terms] = {}
    for entry in giving_way(specific):
        terms = entry.terms
        if terms.color_spaces is None:
            continue
        if id(terms) not in picked:
            best = min(terms.color_spaces, key=COLOR_RANK.__getitem__)
            picked[id(terms)] = terms._replace(color_spaces=frozenset({best}))
        chosen.append(entry._replace(terms=picked[id(terms)]))
    if not (chosen or tolerate_absence):
        raise Breach(Rule.COLOR_SPACE_LEFT_OPEN, "color_spaces")
    return chosen
