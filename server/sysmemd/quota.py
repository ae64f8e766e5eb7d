"""How much of everything one user may have, and one connection of that user (`docs/spec/robustness.md`, "Who pays").

One user gets no more than the limits say. One connection, with everything made through it, gets no more than half of
what the other connections of its user have left, so that a runaway process doesn't shut its user's others out.

What is counted here are numbers; :mod:`.users` knows whose they are.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class Kind(enum.StrEnum):
    """What is counted; each has the name of its setting."""

    CONNECTIONS = "connections"
    COLLECTIONS = "collections"
    NODES = "nodes"
    TRACKINGS = "trackings"
    BUFFERS = "buffers"
    BYTES = "bytes"
    QUEUED_BYTES = "queued_bytes"
    #: This one has no setting: see :func:`descriptors_for_one`.
    DESCRIPTORS = "descriptors"


#: Each of these has one descriptor open in the daemon.
_HAS_DESCRIPTOR: Final = frozenset({Kind.CONNECTIONS, Kind.NODES, Kind.TRACKINGS, Kind.BUFFERS})
#: What is counted with one more of a kind.
_COUNTED: Final = {
    kind: (kind, Kind.DESCRIPTORS) if kind in _HAS_DESCRIPTOR else (kind,) for kind in Kind
}

#: What one user may have; None: as much as there is.
Limits = Mapping[Kind, int | None]

#: Descriptors that the daemon keeps for what it does itself, and for those that come along with a message.
_RESERVE: Final = 512
#: At most this part of the descriptors that are left after start.
_RESERVED_PART: Final = 8


class Exceeded(Exception):
    """A user, or one connection of a user, has as much as it may have. `str()` says so to the client."""

    def __init__(self, kind: Kind, limit: int, share: int) -> None:
        """`limit` is the user's; `share` is what this connection may have of it."""
        what = kind.value.replace("_", " ")
        text = f"the user's limit of {what} is {limit}"
        if share < limit:
            text += f", of which its other connections leave this one {share}"
        super().__init__(text)
        self.kind = kind
        self.limit = limit
        self.share = share


class Tally:
    """How much a user, or a connection, has of each kind."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = dict.fromkeys(Kind, 0)

    def __getitem__(self, kind: Kind) -> int:
        """Return how much there is of a kind."""
        return self._counts[kind]

    def add(self, kind: Kind, amount: int) -> None:
        """Count more, or less if `amount` is negative, of a kind and of the descriptors that this has."""
        counts = self._counts
        for counted in _COUNTED[kind]:
            counts[counted] += amount

    def is_empty(self) -> bool:
        """Return whether nothing is counted."""
        return not any(self._counts.values())


def share_of(limit: int, others: int) -> int:
    """Return how much one connection may have if the `others` of its user have so much: half of the rest, rounded up.

    Rounded up, because a limit of one would otherwise be a limit of none.
    """
    return max(0, limit - others + 1) // 2


def check(kind: Kind, amount: int, *, connection: Tally, user: Tally, limits: Limits) -> None:
    """Raise :class:`Exceeded` if a connection can't have `amount` more of a kind, or of the descriptors for it."""
    for counted in _COUNTED[kind]:
        limit = limits.get(counted)
        if limit is None:
            continue
        own = connection._counts[counted]
        share = share_of(limit, user._counts[counted] - own)
        if own + amount > share:
            raise Exceeded(counted, limit, share)


class Share:
    """How many descriptors are in flight to some clients, who have a share of what a larger group may have.

    Everybody may have half of what the others of the group leave, or all of it while nothing is in flight to them.
    """

    __slots__ = ("_groups", "_limit", "count")

    def __init__(self, group: Share | None = None, limit: int = 0) -> None:
        """Share what `group` may have; without one, `limit` is what all may have together."""
        self._groups: tuple[Share, ...] = () if group is None else (*group._groups, group)
        self._limit = limit
        self.count = 0

    def room(self) -> int:
        """Return how many more may be in flight."""
        if not self._groups:
            return self._limit - self.count
        everybody, *groups = self._groups
        left = everybody._limit - everybody.count
        for share in (*groups, self):
            if share.count:
                left = (left - share.count + 1) // 2
        return left

    def has_room(self, count: int) -> bool:
        """Return whether so many more may be in flight; any number while nothing is, because that won't change."""
        return count <= self.room() or not self._groups[0].count

    def add(self, count: int) -> None:
        """Count more, or less, here and in all groups."""
        self.count += count
        for group in self._groups:
            group.count += count


def in_flight_to_all(limit: int) -> int:
    """Return how many descriptors may be in flight, by how many the process may have open (RLIMIT_NOFILE)."""
    return limit - min(_RESERVE, limit // _RESERVED_PART)


def descriptors_for_one(limit: int, base: int) -> int:
    """Return how many descriptors one user may have: two such users leave the daemon what it needs itself.

    Args:
        limit: How many the process may have open (RLIMIT_NOFILE).
        base: How many it has open when it begins to serve.
    """
    left = max(0, limit - base)
    return (left - min(_RESERVE, left // _RESERVED_PART)) // 2
