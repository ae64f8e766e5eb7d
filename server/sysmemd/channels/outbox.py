"""What waits for a client that doesn't read: bounded, in order, and never a reason to wait.

Descriptors are made when they can be sent, where that is possible: a client that asks for buffers a thousand times and
reads nothing doesn't hold a thousand sets of descriptors in the daemon.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle
from sysmem_protocol.message import HEADER, Message

#: What a message that isn't made yet counts for in the bound.
_UNMADE_BYTES = 1024


class OutboxFull(Exception):
    """More answers wait than the bound allows."""


class _Entry:
    """One answer on its way out: a maker of it, or what is left of its datagrams."""

    __slots__ = ("datagrams", "make", "message", "size")

    def __init__(self, message: Message | None, make: Callable[[], Message] | None) -> None:
        self.make = make
        self.message = message
        self.datagrams: deque[tuple[bytes, list[Handle]]] | None = None
        self.size = _UNMADE_BYTES if message is None else HEADER.size + len(message.body)

    def send(self, channel: Channel) -> bool:
        """Send as much as fits; True when nothing is left."""
        if self.datagrams is None:
            if self.message is None:
                assert self.make is not None
                self.message = self.make()
            self.datagrams = deque(self.message.datagrams())
            begun = False
        else:
            begun = True
        while self.datagrams:
            data, handles = self.datagrams[0]
            if not channel.send(data, handles):
                if self.make is not None and not begun:
                    self.close()
                    self.message = self.datagrams = None
                return False
            begun = True
            self.datagrams.popleft()
            for handle in handles:
                handle.close()
        return True

    def close(self) -> None:
        """Close the descriptors that weren't sent."""
        if self.message is not None:
            self.message.close()


class Outbox:
    """The answers of one channel."""

    __slots__ = ("_bytes", "_channel", "_entries", "_max_bytes", "_max_messages")

    def __init__(self, channel: Channel, max_messages: int, max_bytes: int) -> None:
        self._channel = channel
        self._entries: deque[_Entry] = deque()
        self._bytes = 0
        self._max_messages = max_messages
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def put(self, message: Message) -> None:
        """Send a message, after those that wait; owns its descriptors from then on.

        Raises :class:`OutboxFull` when that passes the bound, and what :meth:`Channel.send` raises.
        """
        self._put(_Entry(message, None))

    def put_later(self, make: Callable[[], Message]) -> None:
        """As :meth:`put`, for a message that is made when it can be sent, anew for each attempt."""
        self._put(_Entry(None, make))

    def _put(self, entry: _Entry) -> None:
        if not self._entries:
            try:
                if entry.send(self._channel):
                    return
            except BaseException:
                entry.close()
                raise
        self._entries.append(entry)
        self._bytes += entry.size
        if len(self._entries) > self._max_messages or self._bytes > self._max_bytes:
            raise OutboxFull(
                f"{len(self._entries)} answers of {self._bytes} bytes wait to be read, "
                f"at most {self._max_messages} of {self._max_bytes} bytes may"
            )

    def flush(self) -> bool:
        """Send what fits; True when nothing waits any more. Raises as :meth:`Channel.send` does."""
        while self._entries:
            entry = self._entries[0]
            if not entry.send(self._channel):
                return False
            self._entries.popleft()
            self._bytes -= entry.size
        return True

    def close(self) -> None:
        """Drop everything that waits, and close its descriptors."""
        for entry in self._entries:
            entry.close()
        self._entries.clear()
        self._bytes = 0
