"""Attached attempts, one after another, against the same buffers (`spec/allocation.md`, Attached attempt).

Each newcomer is aggregated with everybody who has allocated so far. Those are folded once and kept folded, so that the
thousandth newcomer costs no more than the first. The outcome is that of `aggregate_attached` with all of them: folding is
from left to right, and this is where one may stop and go on later.
"""

from __future__ import annotations

from collections.abc import Sequence

from .attached import aggregate_attached, pin, settings_match
from .checks import check_aggregate
from .entry import Entry
from .finish import finish
from .fold import fold
from .model import Allocation, Participant, Platform
from .normalise import normalise
from .refusal import Breach, Refusal
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
        self._folded = normalise(self._pin, platform)
        self._pinned: list[Entry] = list(self._folded.entries)
        self._is_first = True
        self.settle(participants)

    def attempt(self, newcomers: Sequence[Participant]) -> Refusal | None:
        """None if the newcomers can have what exists, together with those who have it; changes nothing.

        A refusal is worked out anew, with all participants, for it names those who are in conflict.
        """
        if self._suits(newcomers):
            return None
        everybody = (*self._participants, *newcomers)
        result = aggregate_attached(everybody, self._existing, self._platform)
        return result if isinstance(result, Refusal) else None

    def settle(self, newcomers: Sequence[Participant]) -> None:
        """The newcomers have joined."""
        for participant in newcomers:
            needs = normalise(participant, self._platform)
            self._folded = fold([needs] if self._is_first else [self._folded, needs])
            self._is_first = False
            self._participants.append(participant)
            if participant.pinned:
                self._pinned += needs.entries

    def _suits(self, newcomers: Sequence[Participant]) -> bool:
        try:
            needs = [normalise(participant, self._platform) for participant in newcomers]
            before = [] if self._is_first else [self._folded]
            total = fold([*before, *needs, normalise(self._pin, self._platform)])
            total.entries = finish(total.entries)
            pinned = [
                *self._pinned,
                *(
                    entry
                    for participant, own in zip(newcomers, needs, strict=True)
                    if participant.pinned
                    for entry in own.entries
                ),
            ]
            check_aggregate(total, self._platform.page_size, pinned)
            settings, count = choose_settings(total, self._platform)
        except Breach:
            return False
        return count == self._existing.buffer_count and settings_match(
            settings, self._existing.settings, ignore_size=False
        )
