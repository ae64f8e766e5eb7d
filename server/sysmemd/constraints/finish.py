"""Finish the required sizes of combined image entries (`docs/spec/constraints.md`, section 3)."""

from __future__ import annotations

from ..pause import giving_way
from .entry import Entry
from .rules import Breach, Rule, WidthHeight
from .terms import Terms

#: The maximum length of `required_max_size_list`.
MAX_REQUIRED_SIZES = 64


def undominated(sizes: tuple[WidthHeight, ...]) -> tuple[WidthHeight, ...]:
    """Return the sizes without duplicates and without those that another one covers (≥ in both members), sorted."""
    if len(sizes) < 2:
        return sizes
    kept: list[WidthHeight] = []
    tallest = -1
    for width, height in sorted(set(sizes), reverse=True):
        # Everything before is at least as wide, so it covers this one unless it is lower.
        if height > tallest:
            kept.append((width, height))
            tallest = height
    return tuple(reversed(kept))


def finish(entries: list[Entry]) -> list[Entry]:
    """Complete and prune required_max_size_list of each entry. Raises `Breach` if more than 64 sizes are left."""
    done: dict[int, Terms] = {}
    finished: list[Entry] = []
    for entry in giving_way(entries, 2):
        terms = entry.terms
        if id(terms) not in done:
            done[id(terms)] = _finish(entry)
        finished.append(entry._replace(terms=done[id(terms)]))
    return finished


def _finish(entry: Entry) -> Terms:
    terms = entry.terms
    sizes = terms.required_max_sizes
    if terms.required_max_width and terms.required_max_height:
        sizes = (*sizes, (terms.required_max_width, terms.required_max_height))
    sizes = undominated(sizes)
    if len(sizes) > MAX_REQUIRED_SIZES:
        breach = Breach(Rule.TOO_MANY_REQUIRED_SIZES, "required_max_size_list", str(len(sizes)))
        breach.pair = entry.pair
        raise breach
    if sizes == terms.required_max_sizes:
        return terms
    return terms._replace(required_max_sizes=sizes)
