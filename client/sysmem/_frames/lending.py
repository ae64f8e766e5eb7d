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
        #: The most frames that were handed to it and not released.
        self.hold = hold
        #: Hands a message over; False when there is no room for it now.
        self.transmit = transmit
        #: Frames that were handed to it, by sequence number.
        self.held: dict[int, Lent] = {}
        #: Frames that wait to be handed to it.
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
        #: Frames so far, and so the next sequence number.
        self.sent = 0

    def take(self) -> int | None:
        """Return a free buffer, which is the producer's then; None while there is none.

        A frame that only waits for consumers who may miss it is dropped if that frees a buffer.
        """
        if not self.free:
            self._reclaim()
        if not self.free:
            return None
        index = self.free.popleft()
        self.taken.add(index)
        return index

    def cancel(self, index: int) -> None:
        """Take a buffer back from the producer without a frame in it. Raises `ValueError` if it hasn't taken it."""
        self.check_taken(index)
        self.taken.remove(index)
        self.free.appendleft(index)

    def lend(self, index: int, message: bytes) -> None:
        """Give the frame in a buffer that the producer has taken to all consumers."""
        self.taken.remove(index)
        lent = Lent(index, self.sent, message)
        self.sent += 1
        lent.borrowers += 1  # this method, so that the buffer isn't freed half-way
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
        """Take a frame back from a consumer, who gets what waits for it. Raises `KeyError` if it hasn't got it."""
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
        """Hand over all that waits, however much the consumers hold: nothing comes after it."""
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
                return  # what fills the queue are frames, and the release of one is when to try again
            consumer.waiting.popleft()
            consumer.held[lent.sequence] = lent
            consumer.delivered += 1

    def _reclaim(self) -> None:
        """Drop the oldest frame whose buffer is free without those who wait for it and may miss it."""
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
