"""The quotas of a user, and of one connection of that user (`docs/spec/robustness.md`, "Who pays").

A user gets no more than the limits allow. One connection, with everything created through it, gets at most half of what
the other connections of its user have left, so a runaway process does not block its user's other processes.

This module counts numbers; :mod:`.users` knows to which user they belong.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final


class Kind(enum.StrEnum):
    """What is counted. Each kind has the name of its setting."""

    CONNECTIONS = "connections"
    COLLECTIONS = "collections"
    NODES = "nodes"
    TRACKINGS = "trackings"
    BUFFERS = "buffers"
    BYTES = "bytes"
    QUEUED_BYTES = "queued_bytes"
    #: This kind has no setting: see :func:`descriptors_for_one`.
    DESCRIPTORS = "descriptors"


#: Each of these has one descriptor open in the daemon.
_HAS_DESCRIPTOR: Final = frozenset({Kind.CONNECTIONS, Kind.NODES, Kind.TRACKINGS, Kind.BUFFERS})
#: The kinds that are counted together with one more of a kind.
_COUNTED: Final = {
    kind: (kind, Kind.DESCRIPTORS) if kind in _HAS_DESCRIPTOR else (kind,) for kind in Kind
}

#: The maximum for one user; None means no limit.
Limits = Mapping[Kind, int | None]

#: Descriptors that the daemon reserves for its own work, and for those that arrive with a message.
_RESERVE: Final = 512
#: The maximum reserve as a part of the descriptors that are left after start.
_RESERVED_PART: Final = 8


class Exceeded(Exception):
    """A user, or one connection of a user, is over its quota. `str()` is the text for the client."""

    def __init__(self, kind: Kind, limit: int, share: int) -> None:
        """`limit` is the user's, and `share` is the part of it that this connection may have."""
        what = kind.value.replace("_", " ")
        text = f"the user's limit of {what} is {limit}"
        if share < limit:
            text += f", of which its other connections leave this one {share}"
        super().__init__(text)
        self.kind = kind
        self.limit = limit
        self.share = share


class Tally:
    """The counts of a user or a connection, by kind."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = dict.fromkeys(Kind, 0)

    def __getitem__(self, kind: Kind) -> int:
        """Return the count of a kind."""
        return self._counts[kind]

    def add(self, kind: Kind, amount: int) -> None:
        """Add to the count of a kind, and of the descriptors for it. `amount` may be negative."""
        counts = self._counts
        for counted in _COUNTED[kind]:
            counts[counted] += amount

    def is_empty(self) -> bool:
        """Return whether all counts are zero."""
        return not any(self._counts.values())


def share_of(limit: int, others: int) -> int:
    """Return the share of one connection if the `others` of its user have this much: half of the rest, rounded up.

    It is rounded up because otherwise a limit of one would be a limit of zero.
    """
    return max(0, limit - others + 1) // 2


def check(kind: Kind, amount: int, *, connection: Tally, user: Tally, limits: Limits) -> None:
    """Raise :class:`Exceeded` if a connection cannot have `amount` more of a kind, or of the descriptors for it."""
    for counted in _COUNTED[kind]:
        limit = limits.get(counted)
        if limit is None:
            continue
        own = connection._counts[counted]
        share = share_of(limit, user._counts[counted] - own)
        if own + amount > share:
            raise Exceeded(counted, limit, share)


class Share:
    """The number of descriptors in flight to a group of clients, which share the limit of a larger group.

    Each member may have half of what the others leave, or all of it while it has nothing in flight.
    """

    __slots__ = ("_groups", "_limit", "count")

    def __init__(self, group: Share | None = None, limit: int = 0) -> None:
        """Share the limit of `group`; without a group, `limit` is the limit of all together."""
        self._groups: tuple[Share, ...] = () if group is None else (*group._groups, group)
        self._limit = limit
        self.count = 0

    def room(self) -> int:
        """Return how many more may be in flight here. This must be in a group."""
        everybody, *groups = self._groups
        left = everybody._limit - everybody.count
        for share in (*groups, self):
            if share.count:
                left = (left - share.count + 1) // 2
        return left

    def has_room(self, count: int) -> bool:
        """Return whether this many more may be in flight; any number if none are, because waiting would not help."""
        return count <= self.room() or not self._groups[0].count

    def add(self, count: int) -> None:
        """Add to the count here and in all enclosing groups. `count` may be negative."""
        self.count += count
        for group in self._groups:
            group.count += count


def in_flight_to_all(limit: int) -> int:
    """Return the maximum number of descriptors in flight, for a process's limit of open ones (RLIMIT_NOFILE)."""
    return limit - min(_RESERVE, limit // _RESERVED_PART)


def descriptors_for_one(limit: int, base: int) -> int:
    """Return the maximum number of descriptors for one user. Two such users leave the daemon what it needs itself.

    Args:
        limit: The process's limit of open descriptors (RLIMIT_NOFILE).
        base: The number of open descriptors when the daemon begins to serve.
    """
    left = max(0, limit - base)
    return (left - min(_RESERVE, left // _RESERVED_PART)) // 2
