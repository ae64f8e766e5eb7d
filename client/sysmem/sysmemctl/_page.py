"""The content of the page that `sysmemctl report` writes. Its layout is in `page/`."""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final

from .. import _traffic
from ._holders import summary
from ._list import buffers
from ._nodes import named, process_of
from ._recording import Recording
from ._show import constraints_table
from ._source import ClientEnds, Data
from ._steps import CLOSED
from ._story import Stories, Story, seconds, service_connections
from ._text import NEEDS_TOOLS, age, client, count, printable, report_parts, size
from ._time_line import TimeLine, after, time_line
from ._tree import label
from ._trouble import Trouble
from ._why import sentences

_FILES: Final = Path(__file__).parent / "page"
#: The number of collections that are shown in full. For further ones only the outcome is shown.
MOST_IN_FULL: Final = 100
#: The maximum numbers of nodes and messages that are listed for a collection.
_MOST_NODES: Final = 1000
_MOST_MESSAGES: Final = 2000
#: The maximum length of a message's body on the page, in characters.
_BODY: Final = 2000
#: The maximum indentation of nodes, in levels.
_DEEPEST: Final = 16

#: The maximum number of a conflict's values that are listed above the table.
_MOST_VALUES: Final = 8

#: The outcomes of a collection, in the order in which they appear on the page, and their names.
OUTCOMES: Final = {
    "refused": "refused",
    "failed": "failed",
    "waiting": "waiting",
    "agreed": "agreed",
    "ended": "ended as planned",
}


@dataclass(frozen=True)
class Cell:
    """A cell of a table, and whether it is part of the conflict."""

    text: str
    marked: bool = False


@dataclass(frozen=True)
class Message:
    """A row in the table of messages."""

    at: str
    after: str
    who: str
    to_daemon: bool
    call: str
    error: str | None
    body: str | None


@dataclass(frozen=True)
class Held:
    """Buffers, and their holders."""

    indices: str
    size: int
    inodes: str
    state: str
    holders: list[str]


@dataclass(frozen=True)
class Article:
    """The page's content about one collection."""

    story: Story
    collection: Data
    outcome: str
    #: The main facts, most important first.
    sentences: list[str]
    line: TimeLine | None
    tree: list[tuple[int, list[tuple[str, str]]]]
    constraints: list[list[Cell]]
    #: Which participant decided each setting, and why.
    decisions: dict[str, str]
    #: The buffers that existed at the end.
    buffers: list[Held]
    #: The number and size of allocated buffers, and the participants that received them.
    allocated: str
    given: list[str]
    messages: list[Message]
    #: The report, line by line.
    report: list[str]


def render(recording: Recording, stories: Stories, *, live: bool) -> str:
    """Return the page as HTML.

    Raises :class:`Trouble` if the template library, which is an optional dependency, is not installed.
    """
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
        from markupsafe import Markup
    except ImportError:
        raise Trouble(NEEDS_TOOLS) from None

    def safe(value: Any) -> Any:
        return (
            printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value
        )

    environment = Environment(
        loader=FileSystemLoader(_FILES),
        autoescape=True,
        finalize=safe,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(client=client, named=named, size=size)
    style, script = ((_FILES / name).read_text() for name in ("report.css", "report.js"))
    kinds = Counter(_outcome(story) for story in stories.collections.values())
    ordered = sorted(
        stories.collections.values(), key=lambda s: ([*OUTCOMES].index(_outcome(s)), -s.began)
    )
    snapshot = (recording.end or {}).get("snapshot") or recording.header["snapshot"]
    return environment.get_template("report.html").render(
        live=live,
        daemon=snapshot["daemon"],
        began=recording.header["at"],
        lasted=age(stories.until - stories.began),
        why=None if recording.end is None else recording.end["why"],
        lost=recording.lost,
        summary=_summary(kinds),
        articles=[
            _article(story, stories, full=number < MOST_IN_FULL)
            for number, story in enumerate(ordered)
        ],
        outcomes=OUTCOMES,
        most=MOST_IN_FULL,
        connections=list(service_connections(stories)),
        knows_the_end=bool(recording.end and recording.end["snapshot"]),
        others=_messages(stories.others, stories.began),
        style=Markup(style),
        style_hash=_hash(style),
        script=Markup(script),
        script_hash=_hash(script),
    )


def _hash(text: str) -> str:
    """Return the hash that identifies a script or a style sheet in a Content-Security-Policy."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _summary(kinds: Counter[str]) -> str:
    whole = count(sum(kinds.values()), "collection")
    parts = [f"{kinds[kind]} {name}" for kind, name in OUTCOMES.items() if kinds[kind]]
    return f"{whole}: {', '.join(parts)}." if parts else "No collection was seen."


def _outcome(story: Story) -> str:
    if story.ended is not None:
        if story.ended["how"] == "released":
            return "ended"
        return "refused" if story.ended["error"] else "failed"
    return "agreed" if story.collection["settings"] else "waiting"


def _article(story: Story, stories: Stories, *, full: bool) -> Article:
    collection = story.collection
    waited = set(collection["waiting_for"])
    attempts = story.explanation["attempts"] if story.explanation else []
    text = attempts[-1]["text"] if attempts else ""
    has_lanes = full and bool(story.lives)
    return Article(
        story=story,
        collection=collection,
        outcome=_outcome(story),
        sentences=list(_sentences(story, collection, stories.ends)),
        line=time_line(story, stories.ends) if has_lanes else None,
        tree=list(_tree(collection, stories.ends, waited)) if full else [],
        constraints=_constraints(collection, text, _refusal(story)) if full else [],
        decisions=_decisions(attempts) if full else {},
        buffers=list(_held(story, stories)) if full else [],
        allocated=buffers(collection) if collection["settings"] else "",
        given=_given(story),
        messages=_messages(story.messages, story.began) if full else [],
        report=text.splitlines() if full else [],
    )


def _sentences(story: Story, collection: Data, ends: ClientEnds) -> Iterator[str]:
    refusal = _refusal(story)
    if story.ended is not None:
        yield _end(story, collection, refusal)
    else:
        headline, *more = sentences(collection, ends)
        if headline.endswith(":"):
            headline = f"{headline} {more.pop(0).strip()}"
        yield headline
        yield from more
    if refusal is not None:
        by_number = {node["number"]: client(node) for node in collection["nodes"]}
        names = {value["node"]: client(value) for value in refusal["values"]} | by_number
        conflict = [names.get(number, f"node {number}") for number in refusal["conflict"]]
        if len(conflict) > 1:
            yield f"These participants do not agree: {', '.join(conflict[:-1])} and {conflict[-1]}."
        for value in refusal["values"][:_MOST_VALUES]:
            yield f"{client(value)} said {value['path'].removeprefix('$.')} = {_shown(value['value'])}."
    for life in story.lives.values():
        if life.died:
            process = process_of(collection, life.node, ends).removeprefix("made by ")
            when = age(life.states[-1][0] - story.began)
            yield f"{client(life.node)}{process and f', {process},'} died {when} after the beginning."
    told = {None, (story.ended or {}).get("line")}
    for life in story.lives.values():
        if refusal is None and life.failure and life.failure["cause"] != CLOSED:
            line = life.failure["line"]
            if line not in told:
                yield f"{line}."
            told.add(line)


def _end(story: Story, collection: Data, refusal: Data | None) -> str:
    """Return a sentence about the end of a collection."""
    ended = story.ended
    assert ended is not None
    agreed = f" agreed on {buffers(collection)}" if collection["settings"] else ""
    when = f" after {age(story.until - story.began)}" if story.lives else ""
    if ended["how"] == "released":
        return f"{named(collection)}{agreed}{' and' if agreed else ''} ended as planned{when}."
    if ended["error"]:
        reason = _rule(refusal) if refusal else ended["line"]
        return f"{named(collection)} was refused with {ended['error']}{when}: {reason}."
    return f"{named(collection)}{agreed}{' and' if agreed else ''} failed{when}: {ended['line'] or ended['cause']}."


def _refusal(story: Story) -> Data | None:
    """Return the refusal of the last attempt, if it was refused."""
    attempts = story.explanation["attempts"] if story.explanation else []
    if not attempts or attempts[-1]["outcome"] == "success":
        return None
    refusals = [each["refusal"] for each in attempts[-1]["selections"] if each["refusal"]]
    return refusals[0] if refusals else None


def _rule(refusal: Data) -> str:
    """Return the violated rule. The refusal's line begins with the stage and the rule."""
    text: str = refusal["line"]
    return text.removeprefix(f"{refusal['stage']}: ").partition(";")[0]


def _shown(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return str(value) if isinstance(value, str | int) else json.dumps(value)


def _tree(
    collection: Data, ends: ClientEnds, waited: set[int]
) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    """Yield each node's depth and description."""
    depths: dict[int | None, int] = {}
    for node in collection["nodes"][:_MOST_NODES]:
        depth = depths[node["number"]] = depths.get(node["parent"], -1) + 1
        yield min(depth, _DEEPEST), list(label(collection, node, ends, waited))


def _constraints(collection: Data, report: str, refusal: Data | None) -> list[list[Cell]]:
    """Return each participant's constraints beside the result, from the report or, without one, from the snapshot."""
    parts = [part for part in report_parts(report) if not isinstance(part, str)]
    # The report's table cannot be parsed if a participant has " | " in its name.
    tables = [
        part for part in parts if (part[0][0], part[0][-1]) == ("field", "result") and part[1:]
    ]
    if not tables:
        header, *rows = constraints_table(collection)
        return [[Cell(cell) for cell in row] for row in (header, *rows)] if rows else []
    header, *rows = tables[0]
    # The report marks the fields with ">" and the participants with "*".
    head = [Cell(name.removesuffix("*"), name.endswith("*")) for name in header]
    said = [(client(each), each["path"]) for each in refusal["values"]] if refusal else []
    cells = [head]
    for name, *rest, result in rows:
        field, marked = name.lstrip("> "), name.startswith(">")
        row = [
            Cell(
                text,
                marked
                and who.marked
                and any(whose == who.text and path.endswith(field) for whose, path in said),
            )
            for who, text in zip(head[1:], rest, strict=False)
        ]
        cells.append([Cell(field, marked), *row, Cell(result, marked)])
    return cells


def _decisions(attempts: list[Data]) -> dict[str, str]:
    """Return which participant decided each setting in the last attempt, if it succeeded."""
    explanations = [each["explanation"] for each in attempts[-1]["selections"]] if attempts else []
    found: dict[str, str | None] = next(filter(None, explanations), {})
    return {key.replace("_", " "): text for key, text in found.items() if text}


def _held(story: Story, stories: Stories) -> Iterator[Held]:
    """Yield the buffers that existed at the end. Buffers with the same holders are combined."""
    existing: list[Data] = []
    for collection in stories.holders["collections"] if stories.holders else ():
        if collection["id"] == story.id:
            existing += collection["buffers"]

    def key(buffer: Data) -> tuple[int, str, list[str]]:
        return buffer["size"], buffer["state"], summary(buffer["holders"])

    for (bytes_each, state, holders), group in groupby(existing, key):
        same = list(group)
        indices = ", ".join(str(each["index"]) for each in same)
        inodes = ", ".join(str(each["inode"]) for each in same)
        yield Held(indices, bytes_each, inodes, state, holders)


def _given(story: Story) -> list[str]:
    """Return the participants that received the buffers."""
    return [client(life.node) for life in story.lives.values() if life.node["outcome"] == "success"]


def _messages(messages: list[Data], began: float) -> list[Message]:
    """Return the rows for messages: all, or only the first and last ones if there are too many."""
    half = _MOST_MESSAGES // 2
    kept = messages if len(messages) <= _MOST_MESSAGES else [*messages[:half], *messages[-half:]]
    return [_message(each, began) for each in kept]


def _message(message: Data, began: float) -> Message:
    node = message["node"]
    place = f"node {node}" if node is not None else f"connection {message['connection']}"
    body = _traffic.body(message)
    return Message(
        at=message["at"],
        after=after(max(0.0, seconds(message["at"]) - began)),
        who=f"{client(message)}, {place}" if message["client_name"] else place,
        to_daemon=message["direction"] == "in",
        call=_traffic.call(message | {"error": None}),
        error=message["error"],
        body=body if body is None or len(body) <= _BODY else f"{body[:_BODY]}…",
    )
