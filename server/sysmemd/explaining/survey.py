"""What a case comes to, as far as it gets: for reports and explanations, also of what was refused.

Unlike an aggregation, which stops at the first breach, this looks at every field and format on its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain

from sysmem_protocol.formats import is_specific

from ..constraints.checks import checked
from ..constraints.entry import Entry, Terms, traits_of
from ..constraints.finish import finish
from ..constraints.fold import combine, fold_fields, intersect, intersect_heaps
from ..constraints.model import Case, Participant
from ..constraints.normalise import Needs
from ..constraints.rules import Breach, Rule
from ..pause import giving_way
from .fields import entry_for, needs_of, standing_for

Pair = tuple[int, int]


def combined_fields(case: Case) -> Needs | None:
    """Everything but the image entries, combined; None if every participant's own constraints break a rule.

    Heaps that not everybody permits are left out, which may leave none.
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
    """Yield the terms of each participant who has a say in a format, colour spaces that it can't have left out."""
    of = traits_of(pair)
    for who, needs in giving_way(needs_of(case), 8):
        entry = entry_for(needs, pair)
        if entry is not None:
            terms = entry.terms
            if of is not None and terms.color_spaces is not None:
                terms = replace(terms, color_spaces=terms.color_spaces & of.color_spaces)
            yield who, terms


def combined_terms(case: Case, pair: Pair) -> tuple[Terms | None, Breach | None]:
    """What a format's terms combine to as far as they do, and why they don't.

    No terms if nobody has a say in it, or if a combination fails.
    """
    of = traits_of(pair)
    # Block padding, which needs to know, is for specific formats only.
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
    """What became of a format that somebody offered, or several together."""

    pair: Pair
    #: Participants with image entries of whom none stands for it.
    refused_by: tuple[Participant, ...]
    #: Why it dropped out although everybody offers it.
    breach: Breach | None = None

    @property
    def common(self) -> bool:
        """Whether it is left for everybody."""
        return not self.refused_by and self.breach is None


def _on_the_way(lists: Sequence[Sequence[Entry]]) -> Iterator[Sequence[Entry]]:
    """What is left after each step of the fold, as far as it gets."""
    left: Sequence[Entry] = lists[0] if lists else ()
    for more in giving_way(lists[1:], 1):
        try:
            left = intersect(left, more)
        except Breach:
            return
        yield left


def verdicts(case: Case) -> list[Verdict]:
    """All specific formats that somebody offers or that came of open ones, those that most participants take first."""
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
