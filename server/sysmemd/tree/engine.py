"""The constraint engine, as the tree uses it; tests put a small one in its place."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, Protocol

from sysmem_protocol.sysmem2 import SingleBufferSettings

from .. import constraints
from ..constraints import Allocation, Participant, Platform


class Refusal(Protocol):
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

    def report(self) -> str:
        """The full table."""
        ...


class Joining(Protocol):
    """What exists, and those who have it; see :class:`sysmemd.constraints.Joining`."""

    def attempt(self, newcomers: Sequence[Participant], /) -> Refusal | None:
        """None if the newcomers can have what exists too."""
        ...

    def settle(self, newcomers: Sequence[Participant], /) -> None:
        """The newcomers have joined."""
        ...


class Engine(Protocol):
    """What the tree needs of :mod:`sysmemd.constraints`: pure functions."""

    def aggregate(
        self, participants: Sequence[Participant], platform: Platform, /
    ) -> Allocation | Refusal:
        """Settings and a buffer count that suit all participants."""
        ...

    def joining(
        self, participants: Sequence[Participant], existing: Allocation, platform: Platform, /
    ) -> Joining:
        """Attached attempts against `existing`, which the participants have."""
        ...

    def must_match(self, settings: SingleBufferSettings, name: str, id: int, /) -> Participant:
        """The synthetic participant of a must_match_vmo."""
        ...


class ConstraintEngine:
    """The daemon's own."""

    def aggregate(
        self, participants: Sequence[Participant], platform: Platform
    ) -> Allocation | Refusal:
        """See :func:`sysmemd.constraints.aggregate`."""
        return constraints.aggregate(participants, platform)

    def joining(
        self, participants: Sequence[Participant], existing: Allocation, platform: Platform
    ) -> Joining:
        """See :class:`sysmemd.constraints.Joining`."""
        return constraints.Joining(participants, existing, platform)

    def must_match(self, settings: SingleBufferSettings, name: str, id: int) -> Participant:
        """See :func:`sysmemd.constraints.must_match`."""
        return constraints.must_match(settings, name, id)


DEFAULT_ENGINE: Final[Engine] = ConstraintEngine()
