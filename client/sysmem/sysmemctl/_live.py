"""The content of `sysmemctl top` as rows of text, computed from snapshots without a terminal."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from ._list import buffers, waits
from ._nodes import participants, process_of, to_do
from ._source import ClientEnds, Data
from ._text import age, client, count, printable, size

#: The maximum number of displayed rows. Drawing more takes long.
MAX_ROWS: Final = 500
#: The maximum width of a cell.
_MAX_CELL: Final = 32

#: A participant: its collection's id, and its node's number.
Who: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table."""

    title: str
    #: Columns that do not fit are left out, in order of descending rank.
    rank: int
    #: Whether the column has numbers, which are sorted in descending order by default.
    number: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A collection or a participant."""

    #: The identity of the row across snapshots.
    key: str
    #: The collection that this row opens.
    collection: int
    cells: Sequence[str]
    #: The sort key for each column.
    order: Sequence[Any]
    state: str


COLLECTIONS: Final = (
    Column("name", 0),
    Column("id", 8, number=True),
    Column("state", 1),
    Column("age", 4, number=True),
    Column("participants", 7, number=True),
    Column("buffers", 6),
    Column("memory", 2, number=True),
    Column("messages/s", 3, number=True),
    Column("waits for", 5),
)
PARTICIPANTS: Final = (
    Column("client", 0),
    Column("process", 4),
    Column("collection", 2),
    Column("kind", 7),
    Column("state", 1),
    Column("memory", 6, number=True),
    Column("messages/s", 3, number=True),
    Column("must", 5),
)


class Rates:
    """Messages per second between consecutive snapshots."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._at = 0.0
        self._daemon: object = None
        self._counts: dict[Who | None, int] = {}
        self._rates: dict[Who | None, float] = {}

    def see(self, data: Data) -> None:
        """Add the counts of a snapshot."""
        messages = data["counters"]["messages"]
        counts: dict[Who | None, int] = {None: messages["in"] + messages["out"]}
        for collection in data["collections"]:
            for node in collection["nodes"]:
                counts[collection["id"], node["number"]] = node["received"] + node["sent"]
        at = self._now()
        daemon = data["daemon"]["pid"], data["daemon"]["started"]
        passed = at - self._at
        if daemon == self._daemon and passed > 0:
            self._rates = {
                who: (number - self._counts[who]) / passed
                for who, number in counts.items()
                if who in self._counts
            }
        else:
            self._rates = {}
        self._daemon, self._at, self._counts = daemon, at, counts

    def of(self, who: Who | None) -> float | None:
        """Return the rate of a participant, or of the whole daemon. None if it is not known yet."""
        return self._rates.get(who)


def summary(data: Data, rates: Rates) -> str:
    """Return a summary of the daemon in one line."""
    daemon, totals = data["daemon"], data["totals"]
    parts = [
        f"sysmemd {daemon['version']} [{daemon['pid']}], up {age(daemon['uptime_s'])}",
        f"{count(totals['collections'], 'collection')}, {count(totals['nodes'], 'node')}",
        f"{count(totals['buffers'], 'buffer')}, {size(totals['bytes'])}",
        f"{_rate(rates.of(None))} messages/s",
    ]
    return " · ".join(parts)


def collection_rows(data: Data, rates: Rates, ends: ClientEnds) -> list[Row]:
    """Return a row for each collection."""
    rows = []
    for one in data["collections"]:
        known = [
            rate
            for node in one["nodes"]
            if (rate := rates.of((one["id"], node["number"]))) is not None
        ]
        rate = sum(known) if known else None
        taking_part = len(participants(one))
        waiting, memory = waits(one, ends), _memory(one)
        name = printable(one["name"]) or "–"
        cells = (
            name,
            str(one["id"]),
            one["state"],
            age(one["age_s"]),
            str(taking_part),
            buffers(one),
            size(memory),
            _rate(rate),
            waiting,
        )
        order = (
            name,
            one["id"],
            one["state"],
            one["age_s"],
            taking_part,
            cells[5],
            memory,
            rate or 0.0,
            waiting,
        )
        rows.append(Row(str(one["id"]), one["id"], cells, order, one["state"]))
    return rows


def participant_rows(data: Data, rates: Rates, ends: ClientEnds) -> list[Row]:
    """Return a row for each participant of each collection."""
    rows = []
    for one in data["collections"]:
        waited, memory = set(one["waiting_for"]), _memory(one)
        name = printable(one["name"]) or str(one["id"])
        for node in participants(one):
            rate = rates.of((one["id"], node["number"]))
            must = to_do(node) if node["number"] in waited else ""
            cells = (
                client(node),
                process_of(one, node, ends),
                name,
                node["kind"],
                node["state"],
                size(memory),
                _rate(rate),
                must,
            )
            order = (*cells[:5], memory, rate or 0.0, must)
            state = "negotiating" if must else one["state"]
            rows.append(Row(f"{one['id']}/{node['number']}", one["id"], cells, order, state))
    return rows


def ordered(rows: Sequence[Row], column: int, *, descending: bool) -> list[Row]:
    """Return the rows to display, sorted by a column. The sort is stable."""
    return sorted(rows, key=lambda row: row.order[column], reverse=descending)[:MAX_ROWS]


def fitting(
    columns: Sequence[Column], rows: Sequence[Row], width: int, length: Callable[[str], int] = len
) -> list[int]:
    """Return the indices of the columns that fit beside each other. The column with the lowest rank always does."""
    widths = [
        min(_MAX_CELL, max(map(length, (column.title, *(row.cells[i] for row in rows)))))
        for i, column in enumerate(columns)
    ]
    chosen: list[int] = []
    for i in sorted(range(len(columns)), key=lambda i: columns[i].rank):
        if chosen and sum(widths[j] + 2 for j in (*chosen, i)) > width:
            break
        chosen.append(i)
    return sorted(chosen)


def cut(text: str, width: int = _MAX_CELL) -> str:
    """Return a text cut to fit into a cell."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _memory(collection: Data) -> int:
    return sum(buffer["size"] for buffer in collection["buffers"])


def _rate(rate: float | None) -> str:
    if rate is None:
        return "–"
    return f"{rate:.1f}" if 0 < rate < 10 else f"{rate:.0f}"
