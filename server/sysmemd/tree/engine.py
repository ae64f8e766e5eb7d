"""The constraint engine and what explains its results, as the tree uses them; tests put a small one in their place."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, Protocol

from sysmem_protocol.sysmem2 import SingleBufferSettings

from .. import constraints, explaining
from ..constraints import Allocation, Participant, Platform, Refusal


class Diagnosis(Protocol):
    """Why nothing suits all participants; `str()` of it is one log line.

    Working out who is in conflict with whom costs further aggregations: `str()`, `conflict` and `report` do that.
    """

    @property
    def stage(self) -> enum.Enum:
        """Where in the engine's order of steps it failed."""
        ...

    @property
    def rule(self) -> enum.Enum:
        """What was required."""
        ...

    @property
    def path(self) -> str:
        """The field it is about; may be empty."""
        ...

    @property
    def conflict(self) -> Sequence[Participant]:
        """A smallest set of participants in conflict; may be empty."""
        ...

    def line(self, *, conflict: bool = True) -> str:
        """One line for the log; without `conflict` it costs nothing."""
        ...

    def line_for(self, participants: Sequence[Participant]) -> str:
        """One line for somebody who may know of their own constraints only, those of `participants`."""
        ...

    def report(self) -> str:
        """Return the full table."""
        ...


class Joining(Protocol):
    """What exists, and those who have it; see :class:`sysmemd.constraints.Joining`."""

    def attempt(self, newcomers: Sequence[Participant], /) -> Diagnosis | None:
        """None if the newcomers can have what exists too."""
        ...

    def settle(self, newcomers: Sequence[Participant], /) -> None:
        """The newcomers have joined."""
        ...


class Engine(Protocol):
    """What the tree needs of :mod:`sysmemd.constraints`: pure functions."""

    def aggregate(
        self, participants: Sequence[Participant], platform: Platform, /
    ) -> Allocation | Diagnosis:
        """Settings and a buffer count that suit all participants."""
        ...

    def joining(
        self, participants: Sequence[Participant], existing: Allocation, platform: Platform, /
    ) -> Joining:
        """Attached attempts against `existing`, which the participants have."""
        ...

    def must_match(self, settings: SingleBufferSettings, name: str, id: int, /) -> Participant:
        """Return the synthetic participant of a must_match_vmo."""
        ...

    def report(self, allocation: Allocation, /) -> str:
        """Return the settings, and why they are what they are."""
        ...


class _Joining:
    """:class:`sysmemd.constraints.Joining`, its refusals diagnosed."""

    def __init__(self, joining: constraints.Joining) -> None:
        self._joining = joining
        self.settle = joining.settle

    def attempt(self, newcomers: Sequence[Participant]) -> Diagnosis | None:
        refusal = self._joining.attempt(newcomers)
        return None if refusal is None else explaining.Diagnosis(refusal)


class ConstraintEngine:
    """The daemon's own."""

    def aggregate(
        self, participants: Sequence[Participant], platform: Platform
    ) -> Allocation | Diagnosis:
        """See :func:`sysmemd.constraints.aggregate`."""
        result = constraints.aggregate(participants, platform)
        return explaining.Diagnosis(result) if isinstance(result, Refusal) else result

    def joining(
        self, participants: Sequence[Participant], existing: Allocation, platform: Platform
    ) -> Joining:
        """See :class:`sysmemd.constraints.Joining`."""
        return _Joining(constraints.Joining(participants, existing, platform))

    def must_match(self, settings: SingleBufferSettings, name: str, id: int) -> Participant:
        """See :func:`sysmemd.constraints.must_match`."""
        return constraints.must_match(settings, name, id)

    def report(self, allocation: Allocation) -> str:
        """See :func:`sysmemd.explaining.explain`."""
        settings = explaining.listing(allocation.settings)
        return f"{settings}\n\n{explaining.explain(allocation).report()}"


DEFAULT_ENGINE: Final[Engine] = ConstraintEngine()
