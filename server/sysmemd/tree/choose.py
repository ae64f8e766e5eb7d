"""The part of an attempt that does not touch the tree: find the first selection that succeeds.

A :class:`Question` holds all that the answer depends on, as it was when it was asked, because others go on with the
tree while it is answered. What is costly is in the answer: the lines of the log too, because who is in conflict with
whom takes further aggregations.
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
    #: `refused`, one line each.
    lines: list[str]
    #: The settings, and how they came about if the engine kept that; None unless it was asked for.
    report: str | None


@dataclass(frozen=True, slots=True)
class NoneChosen:
    """No group selection succeeded. The reported reason is the first one's, because it has the highest preference."""

    error: Error
    reason: str
    refused: tuple[RefusedSelection, ...]
    #: What else the log says of it.
    fields: dict[str, Any]
    #: The first refusal's table, then a line for each selection if there are several; None unless it was asked for.
    report: str | None = None

    def reported(self) -> NoneChosen:
        """Return the same with its report. Making that takes time."""
        report = _told(self.refused[0].refusal.report)
        if len(self.refused) > 1:
            lines = (f"  {_told(entry.__str__)}" for entry in self.refused)
            report = "\n".join([report, "", "selections:", *lines])
        return replace(self, report=report)


@dataclass(frozen=True, slots=True)
class Question:
    """The question which selection succeeds, with all that is needed to answer it."""

    snapshot: Snapshot
    participants: dict[NodeData, tuple[Participant, ...]]
    engine: Engine
    platform: Platform
    max_selections: int
    #: Whether a report is wanted.
    verbose: bool
    #: Of an attached attempt: whom it has to get along with. Nobody else uses it until the answer is there.
    having: Having | None

    def answer(self) -> Chosen | NoneChosen | Exception:
        """Return the answer, or the exception that ended the search, which would be a fault of the daemon."""
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
    """What is told of an outcome. If telling fails, which is our fault, that it does: the outcome stays the same."""
    try:
        return tell()
    except Exception as error:
        *_, (frame, line) = traceback.walk_tb(error.__traceback__)
        place = f"{PurePath(frame.f_code.co_filename).name}:{line}"
        return f"can't be told, a fault of this daemon: {printable(repr(error))} in {place}"
