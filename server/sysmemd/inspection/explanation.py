"""The explanation of a collection's state, as JSON data (`docs/spec/inspect.md`, "Explain")."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sysmem_protocol.formats import pair_name
from sysmem_protocol.inspector import SCHEMA
from sysmem_protocol.library import Struct

from ..cases import write_case
from ..channels.reasons import MISSING
from ..constraints import Allocation, Participant, Platform
from ..explaining import Brought, Diagnosis, explain
from ..explaining.words import show
from ..pause import giving_way
from ..tree import Attempt, LogicalBufferCollection
from ..tree.state import READY
from .ended import EndedCollection
from .snapshot import Json, state_of

#: The maximum time in which searches for conflicts are started. A running search is completed.
SEARCH_SECONDS: Final = 2.0
#: The key of the explanation for each setting.
_SETTINGS: Final = {
    "count": "buffer_count",
    "size": "size_bytes",
    "heap": "heap",
    "domain": "coherency_domain",
    "format": "pixel_format",
    "color_space": "color_space",
}


@dataclass(frozen=True, slots=True)
class Question:
    """The data about a collection at the time of a request: enough to explain it later."""

    id: int
    name: str
    state: str
    attempts: Sequence[Attempt]
    waiting_for: list[Json]
    #: Participants that are not in the attempts, by their nodes' numbers.
    participants: Mapping[int, Sequence[Participant]]
    wall_time: Callable[[int], str]
    platform: Platform

    def answer(self) -> Json:
        """Return the explanation. This takes time."""
        nodes = {
            id(participant): number
            for source in (*(attempt.participants for attempt in self.attempts), self.participants)
            for number, brought in source.items()
            for participant in brought
        }
        until = time.monotonic() + SEARCH_SECONDS
        attempts = [_Attempt(one, nodes, until).told(self.wall_time) for one in self.attempts]
        return {
            "schema": SCHEMA,
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "attempts": attempts,
            "waiting_for": self.waiting_for,
            "case": self._case(),
        }

    def _case(self) -> Json:
        """Return the last aggregated case, or the current one, in the format of `sysmemctl explain`."""
        for attempt in reversed(self.attempts):
            decided = attempt.refused[0].refusal if attempt.refused else None
            refused = decided.refusal.case if isinstance(decided, Diagnosis) else None
            agreed = attempt.allocation and attempt.allocation.case
            if case := agreed or refused:
                return write_case(case.participants, case.platform)
        everybody = [who for brought in self.participants.values() for who in brought]
        return write_case(everybody, self.platform)


def about(
    collection: LogicalBufferCollection, wall_time: Callable[[int], str], platform: Platform
) -> Question:
    """Return the question about a living collection."""
    waiting_for: list[Json] = []
    participants: dict[int, Sequence[Participant]] = {}
    for node in giving_way(collection.nodes()):
        participants[node.number] = node.participants()
        if node.in_tree and not node.subtree.allocated and node.state not in READY:
            client = node.client
            waiting_for.append(
                {
                    "node": node.number,
                    "client_name": client.name,
                    "client_id": client.id,
                    "what": MISSING[node.kind],
                }
            )
    return Question(
        id=collection.id,
        name=collection.name,
        state=state_of(collection),
        attempts=tuple(collection.attempts),
        waiting_for=waiting_for,
        participants=participants,
        wall_time=wall_time,
        platform=platform,
    )


def about_ended(
    ended: EndedCollection, wall_time: Callable[[int], str], platform: Platform
) -> Question:
    """Return the question about an ended collection."""
    return Question(
        id=ended.id,
        name=ended.name,
        state="released" if ended.released else "failed",
        attempts=ended.attempts,
        waiting_for=[],
        participants={},
        wall_time=wall_time,
        platform=platform,
    )


class _Attempt:
    """One attempt, with the numbers of participants' nodes by the participants' identity."""

    def __init__(self, attempt: Attempt, nodes: Mapping[int, int], until: float) -> None:
        self._attempt = attempt
        self._nodes = nodes
        #: The time after which no more conflicts are searched for (CLOCK_MONOTONIC).
        self._until = until

    def told(self, wall_time: Callable[[int], str]) -> Json:
        attempt = self._attempt
        selections: list[Json] = [
            {
                "chosen": list(refused.chosen),
                "refusal": self._refusal(refused.refusal),
                "explanation": None,
            }
            for refused in attempt.refused
        ]
        if attempt.allocation is not None:
            explanation = _explanation(attempt.allocation)
            selections.append(
                {"chosen": list(attempt.chosen), "refusal": None, "explanation": explanation}
            )
        return {
            "start": attempt.start,
            "outcome": "success" if attempt.error is None else attempt.error.name,
            "at": wall_time(attempt.at),
            "selections": selections,
            "text": self._text(),
        }

    def _refusal(self, refusal: Any) -> Json:
        assert isinstance(refusal, Diagnosis)
        data = refusal.refusal
        searched = time.monotonic() < self._until
        conflict = refusal.conflict if searched else ()
        return {
            "stage": data.stage.value,
            "rule": data.rule.name,
            "fields": list(data.fields),
            "format": None if data.pair is None else pair_name(data.pair),
            "values": [self._brought(value) for value in refusal.values],
            "conflict": [self._nodes.get(id(who)) for who in conflict],
            "line": refusal.line(conflict=searched),
        }

    def _brought(self, brought: Brought) -> Json:
        who = brought.participant
        return {
            "node": self._nodes.get(id(who)),
            "client_name": who.name,
            "client_id": who.id,
            "path": brought.path,
            "value": _value(brought.value),
        }

    def _text(self) -> str:
        attempt = self._attempt
        if attempt.report is not None:
            return attempt.report
        if attempt.allocation is None:
            first = attempt.refused[0].refusal
            return first.report()
        text = explain(attempt.allocation).report()
        return text if attempt.error is None else f"{attempt.reason}\n\n{text}"


def _explanation(allocation: Allocation) -> Json:
    reasons = {reason.setting: str(reason) for reason in explain(allocation).reasons}
    return {key: reasons.get(setting) for key, setting in _SETTINGS.items()}


def _value(value: Any) -> Any:
    """Return a participant's value as JSON data."""
    if isinstance(value, list):
        return [_value(element) for element in value]
    if isinstance(value, Struct):
        return [_value(getattr(value, member.name)) for member in value.members]
    plain = value is None or (type(value) in (bool, int, str) and not isinstance(value, enum.Enum))
    return value if plain else show(value)
