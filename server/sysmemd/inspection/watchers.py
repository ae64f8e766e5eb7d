"""Watchers: clients that receive events as far as they read (`docs/spec/inspect.md`, "The Inspector protocol").

A watcher never makes the daemon wait. Unread events are queued up to a limit. Then events are dropped until the watcher
has read the whole queue, and it is told how many were dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, ClassVar, Final

import msgspec

from sysmem_protocol import inspector
from sysmem_protocol.channel import Channel
from sysmem_protocol.inspector import MAX_EVENTS_BYTES, WatcherOnEventsEvent
from sysmem_protocol.library import Interface

from ..channels import Connection, Service
from ..channels.server import Unattached, unnamed
from ..quota import Exceeded, Kind
from ..users import Account

#: The maximum number of characters of an event's JSON in one message. A longer event is sent in parts. Each character
#: takes at most four bytes: an escaped quotation mark takes two, and UTF-8 takes up to four.
_PART: Final = 11 * 1024


def parts(event: str) -> Iterator[str]:
    """Yield an event's JSON, or, if it is too long for a message, the JSON of events that each have a part of it."""
    if len(event) <= _PART:
        yield event
        return
    for start in range(0, len(event), _PART):
        part = {
            "event": "part",
            "json": event[start : start + _PART],
            "last": start + _PART >= len(event),
        }
        yield msgspec.json.encode(part).decode()


class Watcher(Unattached):
    """One client's watch: the server of its channel, and the queue of events."""

    interface: ClassVar[type[Interface]] = inspector.Watcher

    def __init__(
        self,
        service: Service,
        channel: Channel,
        account: Account,
        request: inspector.InspectorWatchRequest,
    ) -> None:
        """Take ownership of `channel`. Raises :class:`.Exceeded`, and closes it, if the user has too many watchers."""
        self.traffic = bool(request.traffic)
        self.bodies = bool(request.bodies)
        self.only = request.buffer_collection_id
        self.account = account
        self._log = service.log
        self._bound = service.limits.max_outbox_bytes
        self._waiting: deque[str] = deque()
        #: The number of queued characters. See :class:`sysmemd.users.Queue`.
        self.waiting_bytes = self.waiting_descriptors = 0
        self._lost = 0
        #: Whether events are held back until the first one is complete.
        self._beginning = True
        self._sending = False
        #: The numbers of events, and of lost events, in the message that is being sent.
        self._told = (0, 0)
        with ExitStack() as undo:
            undo.callback(channel.close)
            self._charge = account.charge(Kind.TRACKINGS)
            undo.callback(self._charge.close)
            self.connection: Connection = service.connect(channel, self, account)
            undo.pop_all()

    # --- interface for the connection ---

    def about(self) -> dict[str, Any]:
        return unnamed(self.interface, self.account.peer.pid)

    def refuse(self, reason: str) -> None:
        self._log.error(
            "a Watcher channel was closed because of an error", reason=reason, **self.about()
        )
        self.peer_closed()

    def failed(self, reason: str) -> None:
        self.refuse(f"the daemon failed: {reason}")

    def exceeded(self, error: Exceeded) -> None:
        self.peer_closed()

    def peer_closed(self) -> None:
        self.connection.close()
        self._drop()
        self._charge.close()

    @property
    def closed(self) -> bool:
        """Whether the watch is over."""
        return self.connection.closed

    def wants(self, collection: int | None, *, traffic: bool) -> bool:
        """Return whether this client wants an event about this collection. `traffic`: the event is a message."""
        return traffic <= self.traffic and self.only in (None, collection)

    # --- events -------------------------------------------------------------------------------------------------------

    def begin(self, first: str) -> None:
        """Send the first event, as JSON, and then the events that occurred meanwhile."""
        self._beginning = False
        if self.closed:
            return
        for part in reversed(list(parts(first))):
            self._waiting.appendleft(part)
            self._count(len(part))
        self._send()

    def tell(self, event: str) -> None:
        """Send an event, as JSON, or drop it if the queue is full."""
        told = list(parts(event))
        if self._lost or self.waiting_bytes + sum(map(len, told)) > self._bound:
            self._lost += 1
            return
        for part in told:
            self._waiting.append(part)
            self._count(len(part))
        self._send()

    def overflow(self, error: Exceeded) -> None:
        """See :class:`sysmemd.users.Queue`: the user's clients do not read. Drop the queue."""
        self._lost += len(self._waiting)
        self._drop()

    def _drop(self) -> None:
        self._waiting.clear()
        self._told = (0, self._told[1])
        self._count(-self.waiting_bytes)

    def _count(self, size: int) -> None:
        self.waiting_bytes += size
        self.account.queue(self, size, 0)

    def _send(self) -> None:
        if self._beginning or self._sending or not (self._waiting or self._lost) or self.closed:
            return
        self._sending = True
        self.connection.stream(inspector.Watcher.on_events, self._message, self._sent)

    def _message(self) -> WatcherOnEventsEvent:
        """Return as many queued events as fit; for an empty queue, the number of lost events."""
        if not self._waiting:
            self._told = (0, self._lost)
            return WatcherOnEventsEvent(json="[]", lost=self._lost or None)
        size, batch = 1, []  # two brackets, and a comma less than events
        for event in self._waiting:
            size += len(event.encode()) + 1
            if size > MAX_EVENTS_BYTES:
                break
            batch.append(event)
        self._told = (len(batch), 0)
        return WatcherOnEventsEvent(json=f"[{','.join(batch)}]")

    def _sent(self) -> None:
        self._sending = False
        if self.closed:
            return
        events, lost = self._told
        for _ in range(events):
            self._count(-len(self._waiting.popleft()))
        self._lost -= lost
        self._send()
