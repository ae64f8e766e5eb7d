"""The queue for a client that does not read. It is bounded and ordered, and never blocks the daemon.

If possible, descriptors are created when they can be sent: a client that asks for buffers a thousand times and reads
nothing does not make the daemon hold a thousand sets of descriptors.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle
from sysmem_protocol.message import HEADER, MAX_HANDLES, Message

from ..ends import every
from ..in_flight import Flight

#: The size that counts against the limit for a message that is not created yet.
_UNMADE_BYTES = 1024
#: The size that counts for a queued descriptor: 1,024 of them fill an outbox of the default size.
_DESCRIPTOR_BYTES = 1024


_Send: TypeAlias = Callable[[bytes, list[Handle]], bool]


class OutboxFull(Exception):
    """The queue of unread responses is over its limit."""


def nothing() -> None:
    """Do nothing."""


class _Entry:
    """One queued message: its maker, or its remaining datagrams."""

    __slots__ = (
        "_first",
        "descriptors",
        "done",
        "instead",
        "is_dropped",
        "left",
        "make",
        "message",
        "size",
        "tell",
    )

    def __init__(
        self,
        message: Message | None,
        make: Callable[[], Message] | None = None,
        instead: Callable[[OSError], Message] | None = None,
        done: Callable[[], None] = nothing,
        tell: Callable[[], None] = nothing,
    ) -> None:
        self.make = make
        #: Creates the message to send if the descriptors cannot be sent.
        self.instead = instead
        #: Called after it was sent, or if it never will be.
        self.done = done
        #: Called before the first attempt to send it, if the message is given.
        self.tell = tell
        self.message = message
        #: The number of descriptors in the first datagram, if the message was created before.
        self._first = 0
        #: The datagrams to send in reverse order; empty as long as none was sent.
        self.left: list[tuple[bytes, list[Handle]]] = []
        self.size = _UNMADE_BYTES
        #: Whether it won't be sent any more.
        self.is_dropped = False
        #: How many wait in the daemon; those of an answer that isn't made yet don't.
        self.descriptors = 0
        if message is not None:
            self.descriptors = len(message.handles)
            self.size = HEADER.size + len(message.body) + _DESCRIPTOR_BYTES * self.descriptors

    def send(self, send: _Send, may_send: Callable[[int], bool]) -> bool:
        """Send as much as fits; True when nothing is left.

        Making a message may give way to others.
        """
        if not self.left:
            if self.message is None:
                if self._first and not may_send(self._first):
                    return False
                assert self.make is not None
                self.message = self.make()
                if self.is_dropped:  # while others went on
                    self.message.close()
                    return True
            self.tell()
            self.tell = nothing
            datagrams = list(self.message.datagrams())
            try:
                sent = send(*datagrams[0])
            except OSError as error:
                if self.instead is None or error.errno != errno.ETOOMANYREFS:
                    raise
                self.close()
                self.message, self.make = self.instead(error), None
                return self.send(send, may_send)
            if not sent:
                if self.make is not None:
                    self._first = len(datagrams[0][1])
                    self.close()
                    self.message = None
                return False
            self.left = datagrams[:0:-1]
        while self.left:
            if not send(*self.left[-1]):
                return False
            self.left.pop()
        return True

    def close(self) -> None:
        """Close the descriptors that were not sent."""
        if self.message is not None:
            self.message.close()


def _nobody_counts(size: int, descriptors: int) -> None:
    """Do nothing: the queue's size is not needed."""


class Outbox:
    """The queue of one channel."""

    __slots__ = (
        "_channel",
        "_counted",
        "_entries",
        "_flight",
        "_max_bytes",
        "_max_messages",
        "_open_flight",
        "is_held",
        "waiting_bytes",
        "waiting_descriptors",
    )

    def __init__(
        self,
        channel: Channel,
        max_messages: int,
        max_bytes: int,
        counted: Callable[[int, int], None] = _nobody_counts,
        open_flight: Callable[[], Flight] | None = None,
    ) -> None:
        """Send on `channel`. `counted` is called with the change in the numbers of queued bytes and descriptors.

        `open_flight` returns the counter of descriptors in flight. It is called when the first descriptors are sent.
        """
        self._channel = channel
        self._open_flight = open_flight
        self._flight: Flight | None = None
        #: Whether the next message waits until descriptors are received, perhaps by other clients.
        self.is_held = False
        self._entries: deque[_Entry] = deque()
        self.waiting_bytes = self.waiting_descriptors = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes
        self._counted = counted

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, message: Message, tell: Callable[[], None] = nothing) -> None:
        """Send a message, or queue it for :meth:`flush`. Takes ownership of its descriptors.

        `tell` is called when the message's turn comes, before it is sent; never if the queue is closed before that.
        Raises :class:`OutboxFull` if the queue is over its limit, and the errors of :meth:`Channel.send`.
        """
        if not self._entries:
            try:
                tell()
                if len(message.handles) <= MAX_HANDLES and self._send(*next(message.datagrams())):
                    return
            except BaseException:
                message.close()
                raise
            tell = nothing
        self._append(_Entry(message, tell=tell))
        self._check()

    def put_bytes(self, data: bytes) -> bool:
        """Send one datagram without descriptors. Return False if the queue is not empty, so it must be :meth:`put`.

        Raises the errors of :meth:`Channel.send`.
        """
        return not self._entries and bool(self._channel.send(data))

    def try_put(self, message: Message, tell: Callable[[], None] = nothing) -> bool:
        """Send a message of one datagram if there is room, and otherwise drop it. Takes ownership of its descriptors.

        Call it only if the queue is empty, or if its next message is not created yet. `tell` is called before. Raises
        the errors of :meth:`Channel.send`.
        """
        [(data, handles)] = message.datagrams()
        try:
            tell()
            return self._send(data, handles)
        finally:
            message.close()

    def put_later(
        self,
        make: Callable[[], Message],
        instead: Callable[[OSError], Message],
        done: Callable[[], None],
    ) -> None:
        """Queue a message that :meth:`flush` creates, anew for each attempt, and sends. Raises nothing.

        `instead` creates the message to send if too many descriptors are in flight to clients that do not receive them.
        `done` is called once, after it was sent or if it never will be.
        """
        self._append(_Entry(None, make, instead, done))

    def flush(self) -> bool:
        """Send what is possible. Return True if the queue is empty.

        Raises :class:`OutboxFull` if the queue is over its limit, and the errors of :meth:`Channel.send` and of makers.
        """
        self.is_held = False
        while self._entries:
            entry = self._entries[0]
            if not entry.send(self._send, self._may_send):
                self._check()
                return False
            if entry.is_dropped:
                continue
            self._entries.popleft()
            self._count(entry, -1)
            entry.done()
        return True

    def close(self) -> None:
        """Drop all queued messages, and close their descriptors."""
        entries, self._entries = self._entries, deque()
        for entry in entries:
            entry.is_dropped = True
            self._count(entry, -1)
        every(step for entry in entries for step in (entry.close, entry.done))

    def end(self) -> None:
        """Close for good: no message may be put afterwards."""
        self.close()
        self._counted = _nobody_counts  # avoid a reference cycle with the owner
        self._open_flight = None
        flight, self._flight = self._flight, None
        if flight is not None:
            flight.close()

    def _send(self, data: bytes, handles: list[Handle]) -> bool:
        if not handles:
            return bool(self._channel.send(data))
        if not self._may_send(len(handles)) or not self._channel.send(data, handles):
            return False
        if self._flight is not None:
            self._flight.sent(len(handles))
        for handle in handles:
            handle.close()
        return True

    def _may_send(self, descriptors: int) -> bool:
        if self._flight is None and self._open_flight is not None:
            self._flight = self._open_flight()
        self.is_held = self._flight is not None and not self._flight.may_send(descriptors)
        return not self.is_held

    def _append(self, entry: _Entry) -> None:
        self._entries.append(entry)
        self._count(entry, 1)

    def _count(self, entry: _Entry, sign: int) -> None:
        self.waiting_bytes += sign * entry.size
        self.waiting_descriptors += sign * entry.descriptors
        self._counted(sign * entry.size, sign * entry.descriptors)

    def _check(self) -> None:
        if len(self._entries) > self._max_messages or self.waiting_bytes > self._max_bytes:
            raise OutboxFull(
                f"{len(self._entries)} responses of {self.waiting_bytes} bytes are unread, "
                f"at most {self._max_messages} of {self._max_bytes} bytes are allowed"
            )
