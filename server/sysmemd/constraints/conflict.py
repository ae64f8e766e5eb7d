"""Who can't agree: a smallest conflicting set of participants.

A set is conflicting if aggregating it is refused for the same reason as all together, and smallest if leaving out any
one of it isn't. It is found by leaving out ever smaller parts, which takes few aggregations where a few of many are to
blame, and never more than a fixed number.
"""

from __future__ import annotations

from dataclasses import replace

from .aggregate import run
from .attached import run_attached
from .model import Participant
from .refusal import ABSENCES, Case, Refusal

#: Aggregations that one search may take. 64 participants of whom 8 conflict take about as many; a search that ends
#: here gives a conflicting set that may be larger than need be.
MAX_AGGREGATIONS = 256


def smallest_conflict(refusal: Refusal) -> tuple[Participant, ...]:
    """Participants such that leaving out any one of them removes this conflict, in the order of the tree.

    Rules that somebody must say something are looked past: they have no conflicting set (empty), and a subset isn't
    excused from a conflict by breaking one. What exists always takes part in an attached attempt.
    """
    if refusal.participant is not None:
        return (refusal.participant,)
    if refusal.rule in ABSENCES:
        return ()
    return _Search(refusal).run()


class _Search:
    """One search; `left` are the aggregations that it may still take."""

    def __init__(self, refusal: Refusal) -> None:
        self.case: Case = refusal.case
        self.key = refusal.conflict_key
        self.left = MAX_AGGREGATIONS
        #: By index: one participant may take part twice.
        self.everybody = tuple(range(len(self.case.participants)))
        self.involved = tuple(
            index
            for index, who in enumerate(self.case.participants)
            if any(value.participant is who for value in refusal.values)
        )

    def run(self) -> tuple[Participant, ...]:
        """Begin with those who brought the values that are involved, if they are enough."""
        start = self.everybody
        if 0 < len(self.involved) < len(start) and self.conflicts(self.involved):
            start = self.involved
        found = self.reduce(start)
        return tuple(self.case.participants[index] for index in found)

    def reduce(self, members: tuple[int, ...]) -> tuple[int, ...]:
        """Leave out parts while the conflict stays; done when no single one can be left out."""
        size = max(len(members) // 2, 1)
        while self.left > 0:
            before = members
            for start in range(0, len(before), size):
                part = frozenset(before[start : start + size])
                rest = tuple(index for index in members if index not in part)
                if self.conflicts(rest):
                    members = rest
            if size == 1 and members == before:
                break
            size = max(size // 2, 1)
        return members

    def conflicts(self, members: tuple[int, ...]) -> bool:
        """Whether these alone are refused for the same reason."""
        participants = tuple(self.case.participants[index] for index in members)
        if self.left <= 0 or not self.keeps_existing(participants):
            return False
        self.left -= 1
        case = replace(self.case, participants=participants)
        aggregate = run if case.existing is None else run_attached
        result = aggregate(case, tolerate_absence=True)
        return isinstance(result, Refusal) and result.conflict_key == self.key

    def keeps_existing(self, participants: tuple[Participant, ...]) -> bool:
        """In an attached attempt the pin, which comes last, is not up for debate."""
        return self.case.existing is None or participants[-1:] == self.case.participants[-1:]
