"""The explanation of a refusal: its reason and the participants in conflict, computed on demand."""

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

#: The maximum number of values in one log line. The report has all of them.
MAX_LINE_VALUES = 6
_INDEX = re.compile(r"\[\d+\]")


class Diagnosis:
    """The explanation of a refusal: the values involved, the participants in conflict, the report.

    `str()` is one line for the log. Each part is computed once, on first use. The conflict, and so `str()` and the
    report, take further aggregations, at most :data:`sysmemd.explaining.conflict.MAX_AGGREGATIONS`.
    """

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal

    @property
    def stage(self) -> Stage:
        """The engine's step that failed."""
        return self.refusal.stage

    @property
    def rule(self) -> Rule:
        """The rule that was violated."""
        return self.refusal.rule

    @cached_property
    def values(self) -> tuple[Brought, ...]:
        """The values involved, each with the participant that set it."""
        return brought(self.refusal)

    @property
    def path(self) -> str:
        """The path of the first field involved, as it was sent or could be sent. Empty if no field is involved."""
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

        Empty if the reason is that no participant set something.
        """
        return smallest_conflict(self.refusal, [value.participant for value in self.values])

    @cached_property
    def excluding(self) -> tuple[Brought, ...]:
        """The formats of participants in the conflict that set none of `values`: they exclude the others' formats."""
        named = {id(value.participant) for value in self.values}
        silent = [who for who in self.conflict if id(who) not in named]
        return formats_of(self.refusal.case, silent)

    def line_for(self, participants: Sequence[Participant]) -> str:
        """Return the line for a client that may not know of others: the rule, and its participants' own values."""
        mine = [value for value in self.values if any(value.participant is p for p in participants)]
        rule = f"{self.stage.value}: {self.rule.value}"
        return "; ".join([rule, *(str(value) for value in mine[:MAX_LINE_VALUES])])

    def line(self, *, conflict: bool = True) -> str:
        """Return one line for the log. Without `conflict` it takes no further aggregation."""
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
        # If a single participant is the reason, a value of it is usually named already.
        if conflict and (len(self.conflict) > 1 or any(id(w) not in named for w in self.conflict)):
            parts.append("conflict: " + " and ".join(str(who) for who in self.conflict))
        return "; ".join(parts)

    def _shown(self, conflict: tuple[Participant, ...]) -> list[Brought]:
        """Return the values for a log line: some of every field, and preferably values of participants in the conflict.

        Of one field, new values come before existing ones, then larger ones before smaller ones. The very last value is
        always shown, because with sizes it is the limit.
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
        """Return the full table: rows are fields, columns participants, and the last column the result.

        The conflict is marked. `width` is the maximum length of a cell, in characters.
        """
        refusal = self.refusal
        lines = [self.line(conflict=False)]
        if self.conflict:
            names = ", ".join(str(who) for who in self.conflict)
            lines.append(f"smallest conflicting set: {names}")
        lines += [f"differs: {_said(difference)}" for difference in refusal.differences]
        # Of the many fields that determine a size, mark only those that a participant's value decides.
        named = {name for name in refusal.fields if name not in SIZE_FIELDS}
        marked = {value.path for value in self.values} | named
        table = case_table(
            refusal.case,
            refusal.pair,
            conflict=self.conflict,
            marked=marked,
            # Differing settings have a result, but it is not the existing one.
            broken="" if refusal.differences else refusal.detail or "refused",
            width=width,
        )
        return "\n".join([*lines, "", table, *format_lines(refusal.case)])


def _said(difference: Difference) -> str:
    existing, wanted = show(difference.existing), show(difference.wanted)
    return f"{difference.path}: {existing} exists, {wanted} wanted"


def _magnitude(value: Any) -> int:
    return value if isinstance(value, int) else 0
