"""How long messages take in the daemon, by method.

The time of a one-way message is from its receipt until it is processed, and that of a call until its response is ready.
A call that waits for other participants, such as WaitForAllBuffersAllocated, takes as long as they do.

Measuring costs every message something, so it is only two clock reads and two additions: durations are counted by their
number of bits.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from time import perf_counter_ns
from typing import Final

from sysmem_protocol.library import Method

#: The maximum number of bits of a duration: 2 ** 63 ns are 292 years.
_MAX_BITS: Final = 63
#: The index of the sum of a method's durations in its counts, in nanoseconds.
SUM: Final = _MAX_BITS + 1
#: The numbers of bits that have a bucket: 2 ** 14 ns are 16 us, 2 ** 36 ns are 69 s.
BITS: Final = range(14, 38, 2)


class Latencies(defaultdict[Method, list[int]]):
    """For each called method, the number of messages by the bits of their duration in nanoseconds, and the sum."""

    def __init__(self) -> None:
        super().__init__(lambda: [0] * (SUM + 1))

    def took(self, method: Method, began: int) -> None:
        """Count a message whose processing began at `began` (`time.perf_counter_ns`)."""
        took = perf_counter_ns() - began
        latency = self[method]
        latency[took.bit_length()] += 1
        latency[SUM] += took

    def histograms(self) -> Iterator[tuple[Method, list[tuple[float, int]], float]]:
        """Yield each method with its buckets (the upper bound in seconds and the number below it), and the sum."""
        for method, latency in sorted(self.items(), key=lambda item: str(item[0])):
            buckets = [(2**bits / 1e9, sum(latency[: bits + 1])) for bits in BITS]
            buckets.append((float("inf"), sum(latency[:SUM])))
            yield method, buckets, latency[SUM] / 1e9
