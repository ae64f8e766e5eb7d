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


class Engine(Protocol):
    """Pure functions of :mod:`sysmemd.constraints`."""

    def aggregate(
        self, participants: Sequence[Participant], platform: Platform, /
    ) -> Allocation | Refusal:
        """Settings and a buffer count that suit all participants."""
        ...

    def aggregate_attached(
        self, participants: Sequence[Participant], existing: Allocation, platform: Platform, /
    ) -> Allocation | Refusal:
        """The existing settings and count, if they suit all participants."""
        ...

    def must_match(
        self, settings: SingleBufferSettings, name: str = "", id: int = 0
    ) -> Participant:
        """The synthetic participant of a must_match_vmo."""
        ...


#: The daemon's engine.
DEFAULT_ENGINE: Final[Engine] = constraints
