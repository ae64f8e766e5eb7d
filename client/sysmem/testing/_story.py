"""The report of a daemon under test for a failed test, in plain text, 80 columns wide."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Final, TypeAlias

from .. import _traffic
from ..sysmemctl._source import ClientEnds, select
from ..sysmemctl._tree import tree
from ..sysmemctl._trouble import Trouble
from ..sysmemctl._why import sentences

#: JSON as the Inspector returns it.
Data: TypeAlias = dict[str, Any]
#: A heading and a text.
Section: TypeAlias = tuple[str, str]

WIDTH: Final = 80
#: The number of messages that are shown.
_TAIL: Final = 40


def sections(
    snapshot: Data, explain: Callable[[int], Data], trace: Sequence[Data]
) -> list[Section]:
    """Return the sections of the report: the trees, who waits for whom, the last refusal, the last messages."""
    living = snapshot["collections"]
    told = []
    if living and find_spec("rich") is not None:
        ends = ClientEnds(living)
        told.append(("collections", _printed(*(tree(each, ends) for each in living))))
    waiting = [each for each in living if each["waiting_for"]]
    if waiting:
        told.append(("who waits for whom", _printed(*(why(each, None) for each in waiting))))
    refused = [each for each in snapshot["ended"] if each["error"]]
    if refused:
        told.append(("the last refusal", why(refused[0], explain(refused[0]["id"]))))
    if trace:
        told.append(("the last messages", messages(trace)))
    return [(title, folded(text)) for title, text in told]


def folded(text: str) -> str:
    """Fold lines that are too long for the width. Continuation lines are indented."""
    lines = []
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip())] + "    "
        lines += textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [
            ""
        ]
    return "\n".join(lines)


def find(snapshot: Data, collection: int | str) -> Data:
    """Return a living or ended collection of a snapshot, by id or name. Raises `ValueError` if there is none."""
    try:
        return select(snapshot, str(collection), ended=True)
    except Trouble as trouble:
        raise ValueError(str(trouble)) from None


def newest(snapshot: Data) -> int:
    """Return the id of the newest collection, living or ended. Raises `AssertionError` if there is none."""
    ids: list[int] = [each["id"] for each in (*snapshot["collections"], *snapshot["ended"])]
    if not ids:
        raise AssertionError("the daemon has had no collection")
    return max(ids)


def why(collection: Data, explained: Data | None) -> str:
    """Return why a collection waits, failed or has the settings that it has."""
    text = "\n".join(sentences(collection))
    if explained is not None and explained["attempts"]:
        text = f"{text}\n\n{explained['attempts'][-1]['text']}"
    return _printed(text)


def messages(trace: Sequence[Data]) -> str:
    """Return the last messages of a trace: number, seconds since the first, client, direction, method and error."""
    last = trace[-_TAIL:]
    lines = []
    for each in last:
        who = f"{_traffic.printable(each['client_name']) or '–'} ({each['client_id']})"
        lines.append(
            f"{each['number']:4} {each['time_s'] - last[0]['time_s']:7.3f} {who:20.20} "
            f"{_traffic.ARROWS[each['direction']]} {each['protocol']}.{each['method']} {each['error'] or ''}"
        )
    return "\n".join(line.rstrip() for line in lines)


def _printed(*things: Any) -> str:
    if find_spec("rich") is None:
        return "\n\n".join(map(str, things))
    from rich.console import Console

    out = Console(file=io.StringIO(), width=WIDTH, color_system=None, highlight=False, markup=False)
    for thing in things:
        out.print(thing, soft_wrap=isinstance(thing, str))
    assert isinstance(out.file, io.StringIO)
    return out.file.getvalue().rstrip()
