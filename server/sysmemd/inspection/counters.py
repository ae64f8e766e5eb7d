"""Counters of events since the daemon's start."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from sysmem_protocol.metrics import bound

from ..channels import Connection
from ..channels.connection import Tracer
from ..pause import giving_way
from ..tree import Attempt, CollectionData
from .ended import EndedCollection
from .snapshot import Json

#: Upper bounds of the histogram's buckets, in seconds.
BOUNDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Counters:
    """Counts allocation attempts and ended collections. Connections count their own messages."""

    def __init__(self, tracer: Tracer, connections: Callable[[], Iterable[Connection]]) -> None:
        """`tracer` has the counts of closed connections. `connections` returns the others."""
        self._tracer = tracer
        self._connections = connections
        self._attempts: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        #: The number of first attempts in each bucket, by the time from the collection's creation.
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def attempted(self, collection: CollectionData, attempt: Attempt) -> None:
        """Count a finished attempt."""
        self._attempts["success" if attempt.error is None else attempt.error.name] += 1
        if attempt.refused and attempt.allocation is None:
            self._refusals[attempt.refused[0].refusal.rule.name] += 1
        if attempt is collection.attempts[0]:
            seconds = (attempt.at - collection.created) / 1e9
            self._buckets[bisect_left(BOUNDS, seconds)] += 1
            self._seconds += seconds

    def ended(self, ended: EndedCollection) -> None:
        """Count an ended collection."""
        self._ended["released" if ended.released else "failed"] += 1

    def told(self) -> Json:
        """Return the counters as JSON data."""
        sums = [sum(self._buckets[: index + 1]) for index in range(len(self._buckets))]
        tracer = self._tracer
        # Otherwise a connection that closes during this loop would be counted twice.
        messages = [tracer.messages_in, tracer.messages_out]
        for connection in giving_way(list(self._connections()), every=64):
            messages[0] += connection.received
            messages[1] += connection.sent
        return {
            "messages": dict(zip(("in", "out"), messages, strict=True)),
            "attempts": dict(self._attempts),
            "refusals": dict(self._refusals),
            "ended": dict(self._ended),
            "negotiation_seconds": _histogram(
                list(zip((*BOUNDS, math.inf), sums, strict=True)), self._seconds
            ),
            "message_seconds": [
                {
                    "protocol": method.interface,
                    "method": method.wire_name,
                    **_histogram(buckets, seconds),
                }
                for method, buckets, seconds in giving_way(tracer.latencies.histograms(), every=4)
            ],
        }


def _histogram(buckets: Sequence[tuple[float, int]], seconds: float) -> Json:
    """Return the cumulative counts by upper bound in seconds, and the sum."""
    return {
        "buckets": [[bound(upper), count] for upper, count in buckets],
        "count": buckets[-1][1],
        "sum": seconds,
    }
