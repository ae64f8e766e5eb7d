"""The differences between what a daemon sent to its clients in a capture and in a replay of it."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from ._source import Data

#: The place of an event: its connection, or (None, id) for the end of a collection.
Place = tuple[int | None, int | None]
#: The compared parts of each kind of event. The other parts are numbers and times that differ each time.
_COMPARED: Final = {
    "message": ("txid", "descriptors", "error", "body"),
    "node": ("kind", "node", "parent", "state"),
    "left": ("state", "cause", "line"),
    "closed": (),
    "refused": ("reason",),
    "ended": ("name", "how", "cause", "node", "client_name", "line", "error"),
}
#: Keys of numbers that a daemon assigns anew each time.
_NUMBERED: Final = frozenset({"koid", "collection", "buffer_collection_id"})


@dataclass(frozen=True)
class Difference:
    """One difference. `was` and `now` are JSON data, or None for something that is absent."""

    connection: int | None
    collection: int | None
    what: str
    path: str
    was: Any
    now: Any


@dataclass(frozen=True)
class _Told:
    what: str
    content: Data
    is_message: bool

    @property
    def key(self) -> tuple[str, int | None]:
        """The identity for the comparison: a response is compared with the response to the same call."""
        return self.what, self.content.get("txid")


def differences(was: Iterable[Data], now: Iterable[Data]) -> Iterator[Difference]:
    """Yield the differences by connection. Both sides must use the same connections, collections and koids."""
    before, after = _by_place(was), _by_place(now)
    for place in [*before, *(place for place in after if place not in before)]:
        yield from _compare(place, before.get(place, []), after.get(place, []))


def _by_place(events: Iterable[Data]) -> dict[Place, list[_Told]]:
    places: dict[Place, list[_Told]] = {}
    for event in events:
        kind = event["event"]
        place = (None, event["collection"]) if kind == "ended" else (event["connection"], None)
        what = event["method"] if kind == "message" else kind
        told = _Told(what, {key: event.get(key) for key in _COMPARED[kind]}, kind == "message")
        places.setdefault(place, []).append(told)
    return places


def _compare(place: Place, was: list[_Told], now: list[_Told]) -> Iterator[Difference]:
    """Compare the events of each kind in order; and the order of different kinds, if the events are the same.

    Messages are compared among themselves: they may wait for the next turn of the daemon, while the tree goes on.
    """
    kinds = list(dict.fromkeys(each.key for each in (*was, *now)))
    for kind in kinds:
        pairs = zip_longest(
            (each.content for each in was if each.key == kind),
            (each.content for each in now if each.key == kind),
        )
        for old, new in pairs:
            if old is None or new is None:
                yield Difference(*place, kind[0], "$", old, new)
            else:
                for path, *values in _paths("$", old, new):
                    yield Difference(*place, kind[0], path, *values)
    for is_message in (True, False):
        before, after = (
            [each.key for each in side if each.is_message is is_message] for side in (was, now)
        )
        if before != after and Counter(before) == Counter(after):
            names = [[what for what, _ in keys] for keys in (before, after)]
            yield Difference(*place, "order", "$", *names)


def _paths(path: str, was: Any, now: Any) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in [*was, *(key for key in now if key not in was)]:
            yield from _paths(f"{path}.{key}", was.get(key), now.get(key))
    elif isinstance(was, list) and isinstance(now, list) and len(was) == len(now):
        for index, (old, new) in enumerate(zip(was, now, strict=True)):
            yield from _paths(f"{path}[{index}]", old, new)
    elif was != now:
        yield path, was, now


def translated(data: Any, numbers: Mapping[int, int]) -> Any:
    """Return an event with the capture's koids and collections, also within texts."""

    def word(match: re.Match[str]) -> str:
        return str(numbers.get(int(match[0]), match[0]))

    if isinstance(data, dict):
        return {
            key: numbers.get(value, value)
            if key in _NUMBERED and isinstance(value, int)
            else translated(value, numbers)
            for key, value in data.items()
        }
    if isinstance(data, list):
        return [translated(each, numbers) for each in data]
    return re.sub(r"\d{6,}", word, data) if isinstance(data, str) else data


def short(value: Any) -> str:
    """Return a value as JSON, cut to fit into a line."""
    text = json.dumps(value, ensure_ascii=True)
    return text if len(text) <= 60 else f"{text[:59]}…"
