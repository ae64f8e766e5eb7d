"""What the ends of a stream of frames count."""

from __future__ import annotations

from dataclasses import dataclass

from .lending import Policy


@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    """One consumer, as its producer sees it."""

    name: str
    policy: Policy
    #: The most frames that it may have at once.
    hold: int
    #: Frames that were handed to it.
    delivered: int
    #: Frames that it didn't get because it had too many, or because the producer needed their buffers.
    dropped: int
    #: Frames that it has now.
    held: int
    #: Frames that wait for it.
    waiting: int
    #: Why it is gone; None while it isn't.
    gone: str | None


@dataclass(frozen=True, slots=True)
class SenderStatistics:
    """A producer's side of a stream."""

    #: Frames that were sent.
    sent: int
    #: How often `acquire()` found no buffer free, and for how many seconds it waited altogether.
    waits: int
    waited_seconds: float
    #: Buffers that nobody has, that the producer has, and that consumers have or wait for.
    free: int
    acquired: int
    lent: int
    #: All consumers there ever were, in the order in which they came.
    consumers: tuple[ConsumerStatistics, ...]


@dataclass(frozen=True, slots=True)
class ReceiverStatistics:
    """A consumer's side of a stream."""

    received: int
    released: int
    #: Frames that it has now.
    held: int
    #: Frames that the producer sent while this consumer was there, and that it didn't get.
    missed: int
    #: Why the stream ended; None while it goes on.
    ended: str | None
