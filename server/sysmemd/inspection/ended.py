"""The last ended collections, kept for explanations."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from ..channels.reasons import told
from ..tree import Attempt, Cause, CollectionData
from ..tree.effort import effort

#: The maximum total weight of attempts that are kept of ended collections: their participants' constraints, in the unit
#: of `tree/effort.py`. For older collections only the line is kept.
MAX_WEIGHT: Final = 500_000
#: Causes of an end after an allocation that are not failures.
_IN_PEACE: Final = {Cause.NO_CLIENTS, Cause.NO_STRONG_NODES, Cause.NO_STRONG_HANDLES}


@dataclass(frozen=True, slots=True)
class EndedCollection:
    """A collection whose root has failed."""

    id: int
    name: str
    #: When it ended, by the daemon's clock.
    at: int
    released: bool
    cause: str
    #: The node at which the end began: its number, and its client.
    node: int
    client_name: str
    line: str | None
    error: str | None
    attempts: tuple[Attempt, ...]
    weight: int

    @classmethod
    def of(cls, collection: CollectionData) -> EndedCollection:
        """Return what is kept of a collection that fails as a whole, or has just done so."""
        failure = collection.failure
        assert failure is not None
        released = collection.is_allocated and failure.cause in _IN_PEACE
        attempts = tuple(collection.attempts)
        line, error = told(failure), None
        if failure.cause is Cause.ALLOCATION:
            line, error = attempts[-1].reason, attempts[-1].error
        return cls(
            id=collection.id,
            name=collection.name,
            at=collection.clock.now(),
            released=released,
            cause=failure.cause.value,
            node=failure.first.number,
            client_name=failure.first.client.name,
            line=None if released else line,
            error=None if error is None else error.name,
            attempts=attempts,
            weight=sum(map(_weight, attempts)),
        )


def _weight(attempt: Attempt) -> int:
    return sum(effort(participants) for participants in attempt.participants.values())


class EndedCollections:
    """A ring of ended collections, newest first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ring: deque[EndedCollection] = deque()
        self._weight = 0

    def __iter__(self) -> Iterator[EndedCollection]:
        return iter(self._ring)

    def add(self, ended: EndedCollection) -> None:
        """Add a collection that has just ended."""
        if not self._most:
            return
        self._ring.appendleft(ended)
        self._weight += ended.weight
        if len(self._ring) > self._most:
            self._weight -= self._ring.pop().weight
        for index in range(len(self._ring) - 1, 0, -1):
            if self._weight <= MAX_WEIGHT:
                break
            kept = self._ring[index]
            self._weight -= kept.weight
            self._ring[index] = replace(kept, attempts=(), weight=0)

    def find(self, id: int) -> EndedCollection | None:
        """Return the one with this id, if it is kept."""
        return next((ended for ended in self._ring if ended.id == id), None)
