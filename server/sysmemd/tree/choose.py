"""The part of an attempt that does not touch the tree: find the first selection that succeeds.

A :class:`Question` is a copy of everything that the answer depends on, because the tree may change while the question
is answered. Costly work is done in the answer. This includes the lines of the log, because finding the participants in
conflict takes further aggregations.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import PurePath
from typing import Any, TypeVar

from sysmem_protocol.sysmem2 import Error

from ..constraints import Allocation, Participant, Platform
from ..text import printable
from .data import NodeData
from .engine import Diagnosis, Engine, Joining
from .outcome import RefusedSelection
from .selection import Selection, Snapshot


class Having:
    """The participants that already have the buffers, for attached attempts."""

    def __init__(self, existing: Allocation, participants: Sequence[Participant]) -> None:
        """`participants` have agreed on `existing`."""
        self.existing = existing
        self._participants: Sequence[Participant] = participants
        self._joining: Joining | None = None

    def joining(self, engine: Engine, platform: Platform) -> Joining:
        """Return the engine's object for attached attempts. The first call makes it, which takes time."""
        if self._joining is None:
            self._joining = engine.joining(self._participants, self.existing, platform)
            self._participants = ()
        return self._joining

    def joined(self, newcomers: Sequence[Participant]) -> None:
        """Add participants that have joined. Call it after their successful attempt."""
        assert self._joining is not None
        self._joining.settle(newcomers)


@dataclass(frozen=True, slots=True)
class Chosen:
    """The first selection on which all participants agree, and its result."""

    selection: Selection
    allocation: Allocation
    refused: tuple[RefusedSelection, ...]
    #: The refused selections, one line each.
    lines: list[str]
    #: The settings with their explanation, if the engine kept it; None unless requested.
    report: str | None


@dataclass(frozen=True, slots=True)
class NoneChosen:
    """No group selection succeeded. The reported reason is the first one's, because it has the highest preference."""

    error: Error
    reason: str
    refused: tuple[RefusedSelection, ...]
    #: Further fields of the log entry.
    fields: dict[str, Any]
    #: The first refusal's table, then a line for each selection if there are several; None unless requested.
    report: str | None = None

    def reported(self) -> NoneChosen:
        """Return the same with its report. Creating it takes time."""
        report = _told(self.refused[0].refusal.report)
        if len(self.refused) > 1:
            lines = (f"  {_told(entry.__str__)}" for entry in self.refused)
            report = "\n".join([report, "", "selections:", *lines])
        return replace(self, report=report)


@dataclass(frozen=True, slots=True)
class Question:
    """The question which selection succeeds, with everything that is needed to answer it."""

    snapshot: Snapshot
    participants: dict[NodeData, tuple[Participant, ...]]
    engine: Engine
    platform: Platform
    max_selections: int
    #: Whether a report is requested.
    verbose: bool
    #: For an attached attempt, the participants that have the buffers. Not used elsewhere until the answer is there.
    having: Having | None

    def answer(self) -> Chosen | NoneChosen | Exception:
        """Return the answer, or the exception that ended the search, which would be an error of the daemon."""
        try:
            return self._answer()
        except Exception as error:
            return error

    def _answer(self) -> Chosen | NoneChosen:
        refused: list[RefusedSelection] = []
        for selection in self._selections():
            if len(refused) == self.max_selections:
                return self._none(Error.TOO_MANY_GROUP_CHILD_COMBINATIONS, refused)
            result = self._aggregate(selection)
            if isinstance(result, Allocation):
                lines = [_told(entry.__str__) for entry in refused]
                report = _told(partial(self.engine.report, result)) if self.verbose else None
                return Chosen(selection, result, tuple(refused), lines, report)
            refused.append(RefusedSelection(selection.choices, result, selection.chosen))
        return self._none(Error.CONSTRAINTS_INTERSECTION_EMPTY, refused)

    def _selections(self) -> Iterator[Selection]:
        selection: Selection | None = Selection(self.snapshot)
        while selection is not None:
            yield selection
            selection = selection.next()

    def _aggregate(self, selection: Selection) -> Allocation | Diagnosis:
        """Return the result of aggregating a selection; for an attached one, compared with what exists."""
        participants = [one for node in selection.visible() for one in self.participants[node]]
        if self.having is None:
            return self.engine.aggregate(participants, self.platform)
        refusal = self.having.joining(self.engine, self.platform).attempt(participants)
        if refusal is not None:
            return refusal
        self.having.joined(participants)
        return self.having.existing

    def _none(self, error: Error, refused: list[RefusedSelection]) -> NoneChosen:
        first = refused[0].refusal
        fields = {
            "rule": first.rule.name,
            "field": _told(lambda: first.path),
            "conflict": _told(lambda: [str(who) for who in first.conflict]),
        }
        if len(refused) > 1:
            fields["further_selections"] = [_told(entry.__str__) for entry in refused[1:]]
        answer = NoneChosen(error, _told(first.__str__), tuple(refused), fields)
        return answer.reported() if self.verbose else answer


_T = TypeVar("_T")


def _told(tell: Callable[[], _T]) -> _T | str:
    """Return the description of a result, or of our own error if describing it fails: the result stays the same."""
    try:
        return tell()
    except Exception as error:
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        place = f"{PurePath(frame.f_code.co_filename).name}:{line}"
        return f"no description, because of an error in the daemon: {printable(repr(error))} in {place}"
