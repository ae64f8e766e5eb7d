"""Why there is no common ground, and who is in it: what is worked out about a refusal when somebody asks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from sysmem_protocol.formats import pair_name

from ..constraints.entry import SIZE_FIELDS
from ..constraints.model import Participant
from ..constraints.refusal import Refusal
from ..constraints.rules import Difference, Rule, Stage
from .conflict import smallest_conflict
from .fields import Brought
from .involved import brought, formats_of
from .report import CELL_WIDTH, case_table, format_lines
from .words import show

#: Values named in one log line; the report has them all.
MAX_LINE_VALUES = 6
_INDEX = re.compile(r"\[\d+\]")


class Diagnosis:
    """What a refusal comes from: the values involved, who conflicts with whom, the report.

    `str()` is one line for the log. Each part is worked out once, when it is first asked for. The conflict, and so
    `str()` and the report, take further aggregations, at most :data:`sysmemd.explaining.conflict.MAX_AGGREGATIONS`.
    """

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal

    @property
    def stage(self) -> Stage:
        """Where in the engine's order of steps it failed."""
        return self.refusal.stage

    @property
    def rule(self) -> Rule:
        """The rule that was broken."""
        return self.refusal.rule

    @cached_property
    def values(self) -> tuple[Brought, ...]:
        """The values involved, each with the participant who brought it."""
        return brought(self.refusal)

    @property
    def path(self) -> str:
        """The first field involved: where it was sent, else where it would be. "" if it is about no field."""
        if self.values:
            return self.values[0].path
        if not self.refusal.fields:
            return ""
        index = "" if self.refusal.entry is None else f"[{self.refusal.entry}]"
        image = self.refusal.pair is not None or self.refusal.entry is not None
        return f"$.{f'image_format_constraints{index}.' if image else ''}{self.refusal.fields[0]}"

    @cached_property
    def conflict(self) -> tuple[Participant, ...]:
        """A smallest conflicting set: leaving out any one of these participants removes this conflict.

        Empty when the reason is what nobody said.
        """
        return smallest_conflict(self.refusal, [value.participant for value in self.values])

    @cached_property
    def excluding(self) -> tuple[Brought, ...]:
        """The formats of those in the conflict who brought none of `values`: they keep the others from agreeing."""
        named = {id(value.participant) for value in self.values}
        silent = [who for who in self.conflict if id(who) not in named]
        return formats_of(self.refusal.case, silent)

    def line_for(self, participants: Sequence[Participant]) -> str:
        """Return the line for somebody who may not know of others: the rule, and the participant's own values."""
        mine = [value for value in self.values if any(value.participant is p for p in participants)]
        rule = f"{self.stage.value}: {self.rule.value}"
        return "; ".join([rule, *(str(value) for value in mine[:MAX_LINE_VALUES])])

    def line(self, *, conflict: bool = True) -> str:
        """One line for the log; without `conflict` it takes no further aggregation."""
        parts = [f"{self.stage.value}: {self.rule.value}"]
        if self.refusal.pair is not None:
            parts[0] += f", {pair_name(self.refusal.pair)}"
        if self.refusal.detail:
            parts[0] += f" ({self.refusal.detail})"
        shown = self._shown(self.conflict if conflict else ())
        parts += [str(value) for value in shown]
        if len(self.values) > MAX_LINE_VALUES:
            parts.append(f"and {len(self.values) - MAX_LINE_VALUES} more")
        parts += [_said(difference) for difference in self.refusal.differences[:MAX_LINE_VALUES]]
        if len(self.refusal.differences) > MAX_LINE_VALUES:
            parts.append(f"and {len(self.refusal.differences) - MAX_LINE_VALUES} more")
        if conflict:
            parts += [str(value) for value in self.excluding]
        named = {id(value.participant) for value in shown}
        # One who is to blame alone has been named with a value, as a rule.
        if conflict and (len(self.conflict) > 1 or any(id(w) not in named for w in self.conflict)):
            parts.append("conflict: " + " and ".join(str(who) for who in self.conflict))
        return "; ".join(parts)

    def _shown(self, conflict: tuple[Participant, ...]) -> list[Brought]:
        """The values of a log line: if not all, then rather those of the conflict than others, and of every field some.

        Of a field rather what is new than what exists, then the largest. The last one of all is always shown: with
        sizes it is the limit.
        """
        last = len(self.values) - 1
        to_blame = set(map(id, conflict))
        ranks = []
        for index, value in enumerate(self.values):
            who = value.participant
            rank = (id(who) not in to_blame, who.pinned, -_magnitude(value.value), index)
            ranks.append((_INDEX.sub("", value.path), rank))
        times: Counter[str] = Counter()
        order = []
        for name, rank in sorted(ranks, key=lambda named: named[1]):
            innocent, pinned, _, index = rank
            order.append((index != last, innocent, times[name], pinned, index))
            times[name] += 1
        kept = sorted(index for *_, index in sorted(order)[:MAX_LINE_VALUES])
        return [self.values[index] for index in kept]

    def __str__(self) -> str:
        return self.line()

    def report(self, width: int = CELL_WIDTH) -> str:
        """The full table: rows are fields, columns participants, the last column what came out, the conflict marked.

        `width` bounds a cell's text, characters.
        """
        refusal = self.refusal
        lines = [self.line(conflict=False)]
        if self.conflict:
            names = ", ".join(str(who) for who in self.conflict)
            lines.append(f"smallest conflicting set: {names}")
        lines += [f"differs: {_said(difference)}" for difference in refusal.differences]
        # Of the many fields that make a size only those that somebody's value decides.
        named = {name for name in refusal.fields if name not in SIZE_FIELDS}
        marked = {value.path for value in self.values} | named
        table = case_table(
            refusal.case,
            refusal.pair,
            conflict=self.conflict,
            marked=marked,
            # What differs has come out, but isn't what exists.
            broken="" if refusal.differences else refusal.detail or "refused",
            width=width,
        )
        return "\n".join([*lines, "", table, *format_lines(refusal.case)])


def _said(difference: Difference) -> str:
    existing, wanted = show(difference.existing), show(difference.wanted)
    return f"{difference.path}: {existing} exists, {wanted} wanted"


def _magnitude(value: Any) -> int:
    return value if isinstance(value, int) else 0
