"""The results for each field and format of a case, for reports and explanations, also after a refusal.

Unlike an aggregation, which stops at the first breach, this examines every field and format separately.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from sysmem_protocol.formats import is_specific

from ..constraints.checks import checked
from ..constraints.entry import Entry, traits_of
from ..constraints.finish import finish
from ..constraints.fold import combine, fold_fields, intersect, intersect_heaps
from ..constraints.model import Case, Participant
from ..constraints.normalise import Needs
from ..constraints.rules import Breach, Rule
from ..constraints.terms import Terms
from ..pause import giving_way
from .fields import entry_for, needs_of, standing_for

Pair = tuple[int, int]


def combined_fields(case: Case) -> Needs | None:
    """Return everything combined except the image entries; None if all participants' own constraints violate a rule.

    Heaps that a participant does not permit are left out. The result may have no heap.
    """
    all_needs = [needs for _, needs in needs_of(case)]
    if not all_needs:
        return None
    total = replace(all_needs[0], min_size_bytes=max(all_needs[0].min_size_bytes, 1), entries=[])
    for needs in giving_way(all_needs[1:], 4):
        fold_fields(total, needs)
        try:
            total.heaps = intersect_heaps(total.heaps, needs.heaps)
        except Breach:
            total.heaps = ()
    return total


def terms_for(case: Case, pair: Pair) -> Iterator[tuple[Participant, Terms]]:
    """Yield the terms of each participant with an entry for a format, without colour spaces it does not support."""
    of = traits_of(pair)
    for who, needs in giving_way(needs_of(case), 8):
        entry = entry_for(needs, pair)
        if entry is not None:
            terms = entry.terms
            if of is not None and terms.color_spaces is not None:
                terms = terms._replace(color_spaces=terms.color_spaces & of.color_spaces)
            yield who, terms


def combined_terms(case: Case, pair: Pair) -> tuple[Terms | None, Breach | None]:
    """Return the combination of a format's terms, as far as it is possible, and the breach that prevents the rest.

    The terms are None if no participant has an entry for the format, or if a combination fails.
    """
    of = traits_of(pair)
    # Only block padding needs this, and it requires a specific format.
    stride = of.stride_bytes if of is not None else 0
    total: Terms | None = None
    for _, terms in terms_for(case, pair):
        if total is None:
            total = terms
            continue
        result = combine(total, terms, stride)
        if isinstance(result, Breach):
            return None, result
        total = result
    if total is None:
        return None, None
    pinned = [entry for who, needs in needs_of(case) if who.pinned for entry in needs.entries]
    try:
        (entry,) = finish([Entry(*pair, total)])
        total = entry.terms
        (entry,) = checked([entry], case.platform.page_size, pinned)
        total = entry.terms
        if of is not None and total.color_spaces is None:
            raise Breach(Rule.COLOR_SPACE_LEFT_OPEN, "color_spaces")
        return total, None
    except Breach as breach:
        return total, breach


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result for one or several offered formats."""

    pair: Pair
    #: Participants that have image entries, but none for this format.
    refused_by: tuple[Participant, ...]
    #: The reason why it was dropped although all participants offer it.
    breach: Breach | None = None

    @property
    def common(self) -> bool:
        """Whether all participants can use it."""
        return not self.refused_by and self.breach is None


def _on_the_way(lists: Sequence[Sequence[Entry]]) -> Iterator[Sequence[Entry]]:
    """Yield the remaining entries after each step of the fold, as far as it gets."""
    left: Sequence[Entry] = lists[0] if lists else ()
    for more in giving_way(lists[1:], 1):
        try:
            left = intersect(left, more)
        except Breach:
            return
        yield left


def verdicts(case: Case) -> list[Verdict]:
    """Return the results for all specific formats that are offered or come from open ones, most accepted ones first."""
    choosing = [(who, needs) for who, needs in needs_of(case) if needs.entries]
    lists = [needs.entries for _, needs in choosing]
    offered = dict.fromkeys(
        entry.pair
        for entry in giving_way(chain.from_iterable((*lists, *_on_the_way(lists))))
        if is_specific(*entry.pair)
    )
    takers: dict[Pair, set[int]] = {pair: set() for pair in offered}
    for index, (_, needs) in enumerate(choosing):
        own = {entry.pair for entry in giving_way(needs.entries, 64)}
        for pair, taken_by in giving_way(takers.items()):
            if not own.isdisjoint(standing_for(pair)):
                taken_by.add(index)
    found = []
    for pair, taken_by in giving_way(takers.items(), 1):
        refused_by = tuple(who for i, (who, _) in enumerate(choosing) if i not in taken_by)
        breach = None if refused_by else combined_terms(case, pair)[1]
        found.append(Verdict(pair, refused_by, breach))
    return sorted(found, key=lambda verdict: (len(verdict.refused_by), verdict.pair))
