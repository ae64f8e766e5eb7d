"""The interface of the constraint engine and its explanations for the tree. Tests replace it by a small one."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Final, Protocol

from sysmem_protocol.sysmem2 import SingleBufferSettings

from .. import constraints, explaining
from ..constraints import Allocation, Participant, Platform, Refusal


class Diagnosis(Protocol):
    """The explanation of a refusal. `str()` of it is one log line.

    Finding the participants in conflict costs further aggregations. `str()`, `conflict` and `report` do that.
    """

    @property
    def stage(self) -> enum.Enum:
        """The engine's step that failed."""
        ...

    @property
    def rule(self) -> enum.Enum:
        """The violated rule."""
        ...

    @property
    def path(self) -> str:
        """The path of the field concerned; may be empty."""
        ...

    @property
    def conflict(self) -> Sequence[Participant]:
        """A smallest set of participants in conflict; may be empty."""
        ...

    def line(self, *, conflict: bool = True) -> str:
        """Return one line for the log. Without `conflict` it is cheap."""
        ...

    def line_for(self, participants: Sequence[Participant]) -> str:
        """Return one line for a client that may only know of its own constraints, those of `participants`."""
        ...

    def report(self) -> str:
        """Return the full table."""
        ...


class Joining(Protocol):
    """The existing buffers, and the participants that have them; see :class:`sysmemd.constraints.Joining`."""

    def attempt(self, newcomers: Sequence[Participant], /) -> Diagnosis | None:
        """Return None if the newcomers can have the existing buffers too."""
        ...

    def settle(self, newcomers: Sequence[Participant], /) -> None:
        """Let the newcomers join."""
        ...


class Engine(Protocol):
    """The functions of :mod:`sysmemd.constraints` that the tree needs. They are pure."""

    def aggregate(
        self, participants: Sequence[Participant], platform: Platform, /
    ) -> Allocation | Diagnosis:
        """Return settings and a buffer count that satisfy all participants, or the explanation of the refusal."""
        ...

    def joining(
        self, participants: Sequence[Participant], existing: Allocation, platform: Platform, /
    ) -> Joining:
        """Return the object for attached attempts against `existing`, which the participants have."""
        ...

    def must_match(self, settings: SingleBufferSettings, name: str, id: int, /) -> Participant:
        """Return the synthetic participant of a must_match_vmo."""
        ...

    def report(self, allocation: Allocation, /) -> str:
        """Return the settings with the reasons for them."""
        ...


class _Joining:
    """:class:`sysmemd.constraints.Joining` with explained refusals."""

    def __init__(self, joining: constraints.Joining) -> None:
        self._joining = joining
        self.settle = joining.settle

    def attempt(self, newcomers: Sequence[Participant]) -> Diagnosis | None:
        refusal = self._joining.attempt(newcomers)
        return None if refusal is None else explaining.Diagnosis(refusal)


class ConstraintEngine:
    """The daemon's own engine."""

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
