"""Who can't agree: a smallest conflicting set of participants.

A set is conflicting if aggregating it is refused for the same reason as all together, and smallest if leaving out any
one of it isn't. It is found by leaving out ever smaller parts, which takes few aggregations where a few of many are to
blame, and never more than a fixed number.

Of several such sets one is looked for that is refused in the very words of the refusal, about the same fields of the
same format, so that both are about the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from ..constraints.aggregate import run
from ..constraints.attached import run_attached
from ..constraints.model import Case, Participant
from ..constraints.refusal import Refusal
from ..constraints.rules import ABSENCES, Rule, Stage

#: Aggregations that one search may take. 64 participants of whom 8 conflict take about as many; a search that ends
#: here gives a conflicting set that may be larger than need be.
MAX_AGGREGATIONS = 256


#: Ways for the last common format to go while folding: which of them it was depends on the order of the fold, so that
#: they are one conflict.
_FORMAT_LOSSES = frozenset(
    {Rule.NO_COMMON_FORMAT, Rule.NO_COMMON_COLOR_SPACE, Rule.ALPHA_CONFLICT}
    | {Rule.DIVISOR_OVER_32_BITS}
)


def smallest_conflict(refusal: Refusal, involved: Iterable[Participant]) -> tuple[Participant, ...]:
    """Participants such that leaving out any one of them removes this conflict, in the order of the tree.

    Rules that somebody must say something are looked past: they have no conflicting set (empty), and a subset isn't
    excused from a conflict by breaking one. What exists always takes part in an attached attempt.

    `involved` are the participants who brought the values that the refusal is about.
    """
    if refusal.participant is not None:
        return (refusal.participant,)
    if refusal.rule in ABSENCES:
        return ()
    return _Search(refusal, involved).run()


_Same = Callable[[Refusal, Refusal], bool]


def _in_the_same_words(a: Refusal, b: Refusal) -> bool:
    """Return whether two refusals say the same to somebody who reads them."""
    return (a.stage, a.rule, a.fields, a.pair) == (b.stage, b.rule, b.fields, b.pair)


def _is_the_same_conflict(a: Refusal, b: Refusal) -> bool:
    """Return whether two refusals are about the same rule, and the same axis if they are about one."""
    return _conflict_key(a) == _conflict_key(b)


def _conflict_key(refusal: Refusal) -> tuple[Stage, Rule, str]:
    if refusal.stage is Stage.FOLD and refusal.rule in _FORMAT_LOSSES:
        return (refusal.stage, Rule.NO_COMMON_FORMAT, "")
    axes = {name.rpartition(".")[2] for name in refusal.fields} & {"width", "height"}
    one_axis = len(axes) == 1 and refusal.rule is not Rule.SETTINGS_DIFFER
    return (refusal.stage, refusal.rule, axes.pop() if one_axis else "")


class _Search:
    """One search; `left` are the aggregations that it may still take."""

    def __init__(self, refusal: Refusal, involved: Iterable[Participant]) -> None:
        self.case: Case = refusal.case
        self.refusal = refusal
        self.left = MAX_AGGREGATIONS
        #: What has been found out about sets of members.
        self.known: dict[tuple[int, ...], Refusal | None] = {}
        #: By index: one participant may take part twice.
        self.everybody = tuple(range(len(self.case.participants)))
        named = set(map(id, involved))
        if self.case.existing is not None and named:
            named.add(id(self.case.participants[-1]))
        self.involved = tuple(
            index for index, who in enumerate(self.case.participants) if id(who) in named
        )

    def run(self) -> tuple[Participant, ...]:
        """Begin with those who brought the values that are involved, if they are enough."""
        found = self.everybody
        if 0 < len(self.involved) < len(found) and self.conflicts(
            self.involved, _in_the_same_words
        ):
            found = self.involved
        for same in (_in_the_same_words, _is_the_same_conflict):
            found = self.reduce(found, same)
        return tuple(self.case.participants[index] for index in found)

    def reduce(self, members: tuple[int, ...], same: _Same) -> tuple[int, ...]:
        """Leave out parts while the conflict stays; done when no single one can be left out."""
        size = max(len(members) // 2, 1)
        while self.left > 0:
            before = members
            for start in range(0, len(before), size):
                part = frozenset(before[start : start + size])
                rest = tuple(index for index in members if index not in part)
                if self.conflicts(rest, same):
                    members = rest
            if size == 1 and members == before:
                break
            size = max(size // 2, 1)
        return members

    def conflicts(self, members: tuple[int, ...], same: _Same) -> bool:
        """Return whether these alone are refused for the same reason."""
        participants = tuple(self.case.participants[index] for index in members)
        if not self.keeps_existing(participants):
            return False
        if members not in self.known:
            if self.left <= 0:
                return False
            self.left -= 1
            case = replace(self.case, participants=participants)
            aggregate = run if case.existing is None else run_attached
            result = aggregate(case, tolerate_absence=True)
            self.known[members] = result if isinstance(result, Refusal) else None
        refusal = self.known[members]
        return refusal is not None and same(refusal, self.refusal)

    def keeps_existing(self, participants: tuple[Participant, ...]) -> bool:
        """In an attached attempt the pin, which comes last, is not up for debate."""
        return self.case.existing is None or participants[-1:] == self.case.participants[-1:]
