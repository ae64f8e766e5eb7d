"""How long messages take in the daemon, by method.

A message takes from when it was received until it is processed; a call until its answer is ready. A call that waits for
others, such as WaitForAllBuffersAllocated, takes as long as they do.

This costs every message something, so it is two looks at the clock and two additions: a duration is counted by the
number of its bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from time import perf_counter_ns
from typing import Final

from sysmem_protocol.library import Method

#: Durations with more bits don't occur: 2 ** 63 ns are 292 years.
_MAX_BITS: Final = 63
#: Where a method's counts have the sum of its durations, in nanoseconds.
SUM: Final = _MAX_BITS + 1
#: The numbers of bits that are told apart: 2 ** 14 ns are 16 us, 2 ** 36 ns are 69 s.
BITS: Final = range(14, 38, 2)


class Latencies(defaultdict[Method, list[int]]):
    """For each method that was called: how many messages took so many nanoseconds, by number of bits, and the sum."""

    def __init__(self) -> None:
        super().__init__(lambda: [0] * (SUM + 1))

    def took(self, method: Method, began: int) -> None:
        """Count a message whose processing began at `began` (`time.perf_counter_ns`)."""
        took = perf_counter_ns() - began
        latency = self[method]
        latency[took.bit_length()] += 1
        latency[SUM] += took

    def histograms(self) -> Iterator[tuple[Method, list[tuple[float, int]], float]]:
        """Yield each method with its buckets, as upper bounds in seconds and how many took less, and the sum."""
        for method, latency in sorted(self.items(), key=lambda item: str(item[0])):
            buckets = [(2**bits / 1e9, sum(latency[: bits + 1])) for bits in BITS]
            buckets.append((float("inf"), sum(latency[:SUM])))
            yield method, buckets, latency[SUM] / 1e9
