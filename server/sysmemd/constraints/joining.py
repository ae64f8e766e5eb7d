"""Successive attached attempts against the same buffers (`docs/spec/allocation.md`, "Attached attempt").

Each newcomer is aggregated with all participants that have allocated so far. Those are folded once and kept folded, so
that the thousandth newcomer costs no more than the first. The result is that of `aggregate_attached` with all of them:
folding goes from left to right, and here it stops and continues later.
"""

from __future__ import annotations

from collections.abc import Sequence

from .attached import aggregate_attached, pin, settings_match
from .checks import check_aggregate
from .finish import finish
from .fold import fold
from .model import Allocation, Participant, Platform
from .normalise import Needs, normalise
from .refusal import Refusal
from .rules import Breach
from .settings import choose_settings


class Joining:
    """The existing buffers, and the participants that have them."""

    def __init__(
        self, participants: Sequence[Participant], existing: Allocation, platform: Platform
    ) -> None:
        """`participants` have allocated already, and `existing` is their result."""
        self._existing = existing
        self._platform = platform
        self._pin = pin(existing)
        self._participants: list[Participant] = []
        #: The folded needs of all of them: one element, or none if there are no participants. It is None if they can no
        #: longer be folded, because a participant that narrowed the choice of formats has left.
        self._folded: list[Needs] | None = []
        self.settle(participants)

    def attempt(self, newcomers: Sequence[Participant]) -> Refusal | None:
        """Return None if the newcomers can have the existing buffers with the others. Does not let them join.

        A refusal is computed from scratch with all participants, because it names those in conflict.
        """
        if self._suits(newcomers):
            return None
        everybody = (*self._participants, *newcomers)
        result = aggregate_attached(everybody, self._existing, self._platform)
        return result if isinstance(result, Refusal) else None

    def settle(self, newcomers: Sequence[Participant]) -> None:
        """Let the newcomers join."""
        needs = [normalise(participant, self._platform) for participant in newcomers]
        self._participants += newcomers
        if self._folded is not None and needs:
            try:
                self._folded = [fold([*self._folded, *needs])]
            except Breach:
                self._folded = None

    def _suits(self, newcomers: Sequence[Participant]) -> bool:
        if self._folded is None:
            return False
        try:
            needs = [normalise(participant, self._platform) for participant in newcomers]
            own = normalise(self._pin, self._platform)
            total = fold([*self._folded, *needs, own])
            total.entries = finish(total.entries)
            # Other pins don't matter: what would be delivered like one of them, but not like this, isn't what exists.
            check_aggregate(total, self._platform.page_size, own.entries)
            settings, count = choose_settings(total, self._platform)
        except Breach:
            return False
        return count == self._existing.buffer_count and settings_match(
            settings, self._existing.settings, ignore_size=False
        )
