"""What has happened since the daemon began, as numbers."""

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
    """Counts attempts to allocate and collections that have ended; messages are counted by their connections."""

    def __init__(self, tracer: Tracer, connections: Callable[[], Iterable[Connection]]) -> None:
        """`tracer` has what closed connections have counted, `connections` returns the others."""
        self._tracer = tracer
        self._connections = connections
        self._attempts: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        #: How many first attempts took as long as each bound at most, and longer than the bound before.
        self._buckets = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def attempted(self, collection: CollectionData, attempt: Attempt) -> None:
        """Count an attempt that has finished."""
        self._attempts["success" if attempt.error is None else attempt.error.name] += 1
        if attempt.refused and attempt.allocation is None:
            self._refusals[attempt.refused[0].refusal.rule.name] += 1
        if attempt is collection.attempts[0]:
            seconds = (attempt.at - collection.created) / 1e9
            self._buckets[bisect_left(BOUNDS, seconds)] += 1
            self._seconds += seconds

    def ended(self, ended: EndedCollection) -> None:
        """Count a collection that has ended."""
        self._ended["released" if ended.released else "failed"] += 1

    def told(self) -> Json:
        """Return the numbers as JSON data."""
        sums = [sum(self._buckets[: index + 1]) for index in range(len(self._buckets))]
        tracer = self._tracer
        # A connection that closes while others are looked at would otherwise be counted twice.
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
    """Return how many took at most so many seconds, by upper bound, and the sum."""
    return {
        "buckets": [[bound(upper), count] for upper, count in buckets],
        "count": buckets[-1][1],
        "sum": seconds,
    }
