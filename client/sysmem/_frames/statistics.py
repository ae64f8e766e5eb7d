"""The statistics of both ends of a stream of frames."""

from __future__ import annotations

from dataclasses import dataclass

from sysmem_protocol.docstrings import documented

from .lending import Policy


@documented
@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    """One consumer, as its producer sees it."""

    name: str
    """The name of the consumer."""
    policy: Policy
    """What happens to a new frame when the consumer has as many as it may hold."""
    hold: int
    """The greatest number of frames that the consumer may have at once."""
    delivered: int
    """How many frames were handed to the consumer."""
    dropped: int
    """How many frames the consumer did not get, because it had too many or the producer needed their buffers."""
    held: int
    """How many frames the consumer has now."""
    waiting: int
    """How many frames wait for the consumer."""
    gone: str | None
    """Why the consumer is gone; None as long as it is there."""


@documented
@dataclass(frozen=True, slots=True)
class SenderStatistics:
    """A producer's side of a stream."""

    sent: int
    """How many frames were sent."""
    waits: int
    """How often `acquire()` found no free buffer."""
    waited_seconds: float
    """How many seconds `acquire()` waited altogether."""
    free: int
    """How many buffers nobody has."""
    acquired: int
    """How many buffers the producer has."""
    lent: int
    """How many buffers consumers have or wait for."""
    consumers: tuple[ConsumerStatistics, ...]
    """All consumers, including those that are gone, in the order in which they were added."""


@documented
@dataclass(frozen=True, slots=True)
class ReceiverStatistics:
    """A consumer's side of a stream."""

    received: int
    """How many frames the consumer got."""
    released: int
    """How many frames the consumer gave back."""
    held: int
    """How many frames the consumer has now."""
    missed: int
    """How many frames the producer sent while this consumer was there, and the consumer did not get."""
    ended: str | None
    """Why the stream ended; None as long as it goes on."""
