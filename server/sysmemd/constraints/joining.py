"""Attached attempts, one after another, against the same buffers (`docs/spec/allocation.md`, "Attached attempt").

Each newcomer is aggregated with everybody who has allocated so far. Those are folded once and kept folded, so that the
thousandth newcomer costs no more than the first. The outcome is that of `aggregate_attached` with all of them: folding
is from left to right, and here one stops and goes on later.
"""

from __future__ import annotations

from collections.abc import Sequence

from .attached import aggregate_attached, pin, settings_match
from .checks import check_aggregate
from .entry import Entry
from .finish import finish
from .fold import fold
from .model import Allocation, Participant, Platform
from .normalise import Needs, normalise
from .refusal import Refusal
from .rules import Breach
from .settings import choose_settings


class Joining:
    """What exists, and those who have it."""

    def __init__(
        self, participants: Sequence[Participant], existing: Allocation, platform: Platform
    ) -> None:
        """`participants` have allocated already: together they come to `existing`."""
        self._existing = existing
        self._platform = platform
        self._pin = pin(existing)
        self._participants: list[Participant] = []
        #: What all of them need together: one element, or none as long as there is nobody. None: they can't be folded
        #: any more, for somebody who narrowed the choice of formats has left.
        self._folded: list[Needs] | None = []
        #: The entries of those that are pins.
        self._pinned: list[Entry] = []
        self.settle(participants)

    def attempt(self, newcomers: Sequence[Participant]) -> Refusal | None:
        """None if the newcomers can have what exists, together with those who have it. Nobody has joined yet.

        A refusal is worked out anew, with all participants, for it names those who are in conflict.
        """
        if self._suits(newcomers):
            return None
        everybody = (*self._participants, *newcomers)
        result = aggregate_attached(everybody, self._existing, self._platform)
        return result if isinstance(result, Refusal) else None

    def settle(self, newcomers: Sequence[Participant]) -> None:
        """The newcomers have joined."""
        needs = [normalise(participant, self._platform) for participant in newcomers]
        self._participants += newcomers
        self._pinned += _pinned(newcomers, needs)
        if self._folded is not None and needs:
            try:
                self._folded = [fold([*self._folded, *needs])]
            except Breach:
                self._folded = None

    def _suits(self, newcomers: Sequence[Participant]) -> bool:
        if self._folded is None:
            return False
        more = [*newcomers, self._pin]
        try:
            needs = [normalise(participant, self._platform) for participant in more]
            total = fold([*self._folded, *needs])
            total.entries = finish(total.entries)
            pinned = [*self._pinned, *_pinned(more, needs)]
            check_aggregate(total, self._platform.page_size, pinned)
            settings, count = choose_settings(total, self._platform)
        except Breach:
            return False
        return count == self._existing.buffer_count and settings_match(
            settings, self._existing.settings, ignore_size=False
        )


def _pinned(participants: Sequence[Participant], needs: Sequence[Needs]) -> list[Entry]:
    """Return the image entries of those participants that are pins."""
    return [
        entry
        for participant, own in zip(participants, needs, strict=True)
        if participant.pinned
        for entry in own.entries
    ]
