"""Who has which buffer of a stream: the producer, consumers, or nobody. Pure: no sockets, no time.

A buffer is free, or taken by the producer, or lent: it holds a frame that consumers have or wait for. It is free again
when each of them has released it or is gone.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable

from sysmem_protocol.docstrings import documented


@documented
class Policy(enum.Enum):
    """What happens to a new frame when a consumer has as many as it may hold."""

    WAIT = "wait"
    """The frame waits for the consumer. Its buffer isn't free meanwhile, so in the end the producer waits as well."""
    DROP_OLDEST = "drop the oldest"
    """The frame waits for the consumer, and replaces the one that waited there before."""
    DROP_NEWEST = "drop the newest"
    """The consumer doesn't get the frame."""


class Lent:
    """A frame that consumers have, or wait for."""

    __slots__ = ("borrowers", "index", "message", "sequence")

    def __init__(self, index: int, sequence: int, message: bytes) -> None:
        self.index = index
        self.sequence = sequence
        self.message = message
        self.borrowers = 0


class Consumer:
    """One consumer, as the producer knows it."""

    __slots__ = ("delivered", "dropped", "held", "hold", "policy", "transmit", "waiting")

    def __init__(self, policy: Policy, hold: int, transmit: Callable[[bytes], bool]) -> None:
        self.policy = policy
        #: The greatest number of frames that it may have at once.
        self.hold = hold
        #: Sends a message; returns False if there is no room for it.
        self.transmit = transmit
        #: Frames that it has, by sequence number.
        self.held: dict[int, Lent] = {}
        #: Frames that wait to be sent to it.
        self.waiting: deque[Lent] = deque()
        self.delivered = 0
        self.dropped = 0


class Lending:
    """The buffers of one producer."""

    __slots__ = ("consumers", "free", "sent", "taken")

    def __init__(self, count: int) -> None:
        self.free = deque(range(count))
        self.taken: set[int] = set()
        self.consumers: list[Consumer] = []
        #: How many frames were sent, which is also the next sequence number.
        self.sent = 0

    def take(self) -> int | None:
        """Return a free buffer, which then belongs to the producer, or None if no buffer is free.

        If none is free, this first drops the oldest frame that only waits for consumers whose policy drops frames.
        """
        if not self.free:
            self._reclaim()
        if not self.free:
            return None
        index = self.free.popleft()
        self.taken.add(index)
        return index

    def cancel(self, index: int) -> None:
        """Take back a buffer that the producer did not send. Raises `ValueError` if the producer doesn't have it."""
        self.check_taken(index)
        self.taken.remove(index)
        self.free.appendleft(index)

    def lend(self, index: int, message: bytes) -> None:
        """Send the frame in a buffer that the producer has taken to all consumers."""
        self.taken.remove(index)
        lent = Lent(index, self.sent, message)
        self.sent += 1
        lent.borrowers += 1  # for the time of this method, so that the buffer isn't freed too early
        for consumer in self.consumers:
            if consumer.policy is Policy.DROP_NEWEST and len(consumer.held) >= consumer.hold:
                consumer.dropped += 1
                continue
            if consumer.policy is Policy.DROP_OLDEST and consumer.waiting:
                self._drop(consumer, consumer.waiting.popleft())
            lent.borrowers += 1
            consumer.waiting.append(lent)
            self._hand_over(consumer)
        self._returned(lent)

    def release(self, consumer: Consumer, sequence: int) -> None:
        """Take a frame back from a consumer, and send it what waits for it. Raises `KeyError` if it doesn't have it."""
        self._returned(consumer.held.pop(sequence))
        self._hand_over(consumer)

    def remove(self, consumer: Consumer) -> None:
        """Take everything back from a consumer that is gone. Idempotent."""
        while consumer.held:
            self._returned(consumer.held.popitem()[1])
        while consumer.waiting:
            self._returned(consumer.waiting.popleft())
        if consumer in self.consumers:
            self.consumers.remove(consumer)

    def flush(self) -> None:
        """Send all frames that wait, even beyond what consumers may hold, because the stream ends after them."""
        for consumer in self.consumers:
            consumer.hold += len(consumer.waiting)
            self._hand_over(consumer)

    def check_taken(self, index: int) -> None:
        """Raise `ValueError` unless the producer has taken the buffer."""
        if index not in self.taken:
            raise ValueError(f"buffer {index} isn't the producer's now: acquire() it first")

    def _hand_over(self, consumer: Consumer) -> None:
        while consumer.waiting and len(consumer.held) < consumer.hold:
            lent = consumer.waiting[0]
            if not consumer.transmit(lent.message):
                return  # the queue is full of frames: try again when one of them is released
            consumer.waiting.popleft()
            consumer.held[lent.sequence] = lent
            consumer.delivered += 1

    def _reclaim(self) -> None:
        """Free a buffer: drop the oldest frame that only waits for consumers whose policy drops frames."""
        waiting: dict[Lent, list[Consumer]] = {}
        for consumer in self.consumers:
            if consumer.policy is not Policy.WAIT:
                for lent in consumer.waiting:
                    waiting.setdefault(lent, []).append(consumer)
        for lent in sorted(waiting, key=lambda lent: lent.sequence):
            if len(waiting[lent]) == lent.borrowers:
                for consumer in waiting[lent]:
                    consumer.waiting.remove(lent)
                    self._drop(consumer, lent)
                return

    def _drop(self, consumer: Consumer, lent: Lent) -> None:
        consumer.dropped += 1
        self._returned(lent)

    def _returned(self, lent: Lent) -> None:
        lent.borrowers -= 1
        if not lent.borrowers:
            self.free.append(lent.index)
