"""Finds a smallest conflicting set of participants.

A set is conflicting if aggregating it is refused for the same reason as aggregating all participants. It is smallest if
it is no longer conflicting without any one of its members. The search leaves out smaller and smaller parts. This takes
few aggregations if few of many participants cause the conflict, and never more than a fixed number.

If there are several such sets, the search prefers one whose refusal has the same text, with the same fields of the same
format, so that the line and the set are about the same thing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from ..constraints.aggregate import run
from ..constraints.attached import run_attached
from ..constraints.model import Case, Participant
from ..constraints.refusal import Refusal
from ..constraints.rules import ABSENCES, Rule, Stage

#: The maximum number of aggregations in one search. A conflict of 8 of 64 participants takes about as many. A search
#: that reaches the limit returns a conflicting set that may be larger than necessary.
MAX_AGGREGATIONS = 256


#: The ways in which the last common format can be lost during folding. Which one occurs depends on the order of the
#: fold, so they count as the same conflict.
_FORMAT_LOSSES = frozenset(
    {Rule.NO_COMMON_FORMAT, Rule.NO_COMMON_COLOR_SPACE, Rule.ALPHA_CONFLICT}
    | {Rule.DIVISOR_OVER_32_BITS}
)


def smallest_conflict(refusal: Refusal, involved: Iterable[Participant]) -> tuple[Participant, ...]:
    """Return participants such that leaving out any one of them removes this conflict, in the order of the tree.

    Rules about something that no participant set are ignored: they have no conflicting set (the result is empty), and a
    subset that violates one may still be conflicting. The existing buffers always take part in an attached attempt.

    `involved` are the participants that set the values that the refusal is about.
    """
    if refusal.participant is not None:
        return (refusal.participant,)
    if refusal.rule in ABSENCES:
        return ()
    return _Search(refusal, involved).run()


_Same = Callable[[Refusal, Refusal], bool]


def _in_the_same_words(a: Refusal, b: Refusal) -> bool:
    """Return whether two refusals have the same text for a reader."""
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
    """One search. `left` is the number of aggregations that it may still make."""

    def __init__(self, refusal: Refusal, involved: Iterable[Participant]) -> None:
        self.case: Case = refusal.case
        self.refusal = refusal
        self.left = MAX_AGGREGATIONS
        #: The known results for sets of members.
        self.known: dict[tuple[int, ...], Refusal | None] = {}
        #: By index, because one participant may take part twice.
        self.everybody = tuple(range(len(self.case.participants)))
        named = set(map(id, involved))
        if self.case.existing is not None and named:
            named.add(id(self.case.participants[-1]))
        self.involved = tuple(
            index for index, who in enumerate(self.case.participants) if id(who) in named
        )

    def run(self) -> tuple[Participant, ...]:
        """Search, beginning with the participants whose values are involved, if these are conflicting."""
        found = self.everybody
        if 0 < len(self.involved) < len(found) and self.conflicts(
            self.involved, _in_the_same_words
        ):
            found = self.involved
        for same in (_in_the_same_words, _is_the_same_conflict):
            found = self.reduce(found, same)
        return tuple(self.case.participants[index] for index in found)

    def reduce(self, members: tuple[int, ...], same: _Same) -> tuple[int, ...]:
        """Leave out parts while the conflict stays, until no single member can be left out."""
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
        """Return whether the pin of an attached attempt, which is the last participant, is among them."""
        return self.case.existing is None or participants[-1:] == self.case.participants[-1:]
