"""The report in plain text: rows are fields, columns participants, and the last column the result.

A refusal's report marks the fields in conflict with `>` and the participants of a smallest conflicting set with `*`.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any

from sysmem_protocol.formats import pair_name

from ..constraints.model import Case, Participant
from ..constraints.rules import Breach
from ..pause import giving_way
from .fields import FIELDS, IMAGE_FIELDS, Brought, look_up, values
from .survey import Verdict, combined_fields, combined_terms, verdicts
from .words import show

#: The maximum length of a cell in characters. Longer texts are cut.
CELL_WIDTH = 36
#: The maximum number of participants with a column. Those in conflict have priority.
MAX_COLUMNS = 12
#: The maximum number of formats that are listed.
MAX_VERDICTS = 24

Row = tuple[str, ...]


def case_table(
    case: Case,
    pair: tuple[int, int] | None,
    *,
    conflict: Sequence[Participant] = (),
    marked: Set[str] = frozenset(),
    broken: str = "",
    settings: Sequence[tuple[str, str]] = (),
    width: int = CELL_WIDTH,
) -> str:
    """Return the table of all fields that somebody set or that are marked, then the `settings`.

    Of image entries, only those for `pair` are shown.
    """
    columns = _columns(case, conflict)
    header = ["field", *(_mark(str(who), _is_in(who, conflict)) for who in columns)]
    hidden = len(case.participants) - len(columns)
    if hidden:
        header.append(f"{hidden} more")
    rows: list[Row] = [(*header, "result")]
    total = combined_fields(case)

    def add(name: str, label: str, found: list[Brought], result: Any) -> None:
        is_marked = any(_is_marked(each, marked) for each in (name, *(v.path for v in found)))
        if not found or not (is_marked or any(map(_is_set, giving_way(found)))):
            return
        cells = [_cell(who, found) for who in columns]
        if hidden:
            others = sum(
                not _is_in(value.participant, columns) and _is_set(value) for value in found
            )
            cells.append(f"{others} set" if others else "")
        outcome = broken if is_marked and broken else show(result)
        rows.append((_mark(label, False, "> " if is_marked else "  "), *cells, outcome))

    for field in giving_way(FIELDS, 1):
        found = list(values(field.name, None, case))
        add(field.name, field.name, found, None if total is None else field.value(total))
    formats = list(values("pixel_format", None, case))
    common = [pair_name(verdict.pair) for verdict in verdicts(case) if verdict.common]
    add("pixel_format", "image_format_constraints", formats, common)
    if pair is not None:
        terms, _ = combined_terms(case, pair)
        for image in giving_way(IMAGE_FIELDS, 1):
            found = list(values(image.name, pair, case))
            result = "—" if terms is None else image.value(terms)
            add(image.name, f"  .{image.name}", found, result)
        rows.insert(_first_image_row(rows), (f"  {pair_name(pair)}", *[""] * (len(header))))
    blank = [""] * (len(header) - 1)
    rows += [(f"  {name}", *blank, value) for name, value in settings]
    return render(rows, width)


def _first_image_row(rows: list[Row]) -> int:
    indices = (i for i, row in enumerate(rows) if row[0].lstrip("> ").startswith("."))
    return next(indices, len(rows))


def _columns(case: Case, conflict: Sequence[Participant]) -> list[Participant]:
    """Return the participants to show, in the order of the tree."""
    everybody = case.participants
    kept = sorted(range(len(everybody)), key=lambda i: not _is_in(everybody[i], conflict))
    return [everybody[i] for i in sorted(kept[:MAX_COLUMNS])]


def _is_in(who: Participant, participants: Sequence[Participant]) -> bool:
    """Return whether this participant object is among others. An equal one does not count."""
    return any(who is other for other in participants)


def _is_set(value: Brought) -> bool:
    """Return whether the participant set the field. Domains also have a value by default."""
    return look_up(value.participant.constraints, value.path.removeprefix("$.")) is not None


def _is_marked(path: str, marked: Set[str]) -> bool:
    """Return whether a field, or the struct that it is a member of, is marked."""
    return path in marked or path.rpartition(".")[0] in marked


def _cell(who: Participant, found: Sequence[Brought]) -> str:
    return "; ".join(show(value.value) for value in found if value.participant is who)


def _mark(text: str, marked: bool, prefix: str = "") -> str:
    return f"{prefix}{text}{'*' if marked else ''}"


def format_lines(case: Case) -> list[str]:
    """Return lines with the reasons why offered formats were dropped."""
    dropped = [verdict for verdict in verdicts(case) if not verdict.common]
    lines = [f"  {pair_name(verdict.pair)}: {reason(verdict)}" for verdict in dropped]
    if len(lines) > MAX_VERDICTS:
        lines[MAX_VERDICTS:] = [f"  … {len(lines) - MAX_VERDICTS} more"]
    return ["", "formats that dropped out:", *lines] if lines else []


def reason(verdict: Verdict) -> str:
    """Return why one format was dropped."""
    if verdict.breach is not None:
        return breach_text(verdict.breach)
    shown = [str(who) for who in verdict.refused_by[:4]]
    if len(verdict.refused_by) > 4:
        shown.append(f"{len(verdict.refused_by) - 4} more")
    return f"not taken by {', '.join(shown)}"


def breach_text(breach: Breach) -> str:
    """Return a breach as one phrase."""
    return f"{breach.rule.value}{f' ({breach.detail})' if breach.detail else ''}"


def render(rows: Sequence[Row], width: int = CELL_WIDTH) -> str:
    """Rows as aligned text, the first one a header. Longer cells are cut, but for the first and the last column."""
    cut = [
        (row[0], *(_cut(cell, width) for cell in row[1:-1]), row[-1]) for row in giving_way(rows, 8)
    ]
    widths = [max(map(len, column)) for column in zip(*cut, strict=True)]
    lines = [
        " | ".join(cell.ljust(size) for cell, size in zip(row, widths, strict=True)).rstrip()
        for row in giving_way(cut, 8)
    ]
    lines.insert(1, "-+-".join("-" * size for size in widths))
    return "\n".join(lines)


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: max(width - 1, 0)]}…"
