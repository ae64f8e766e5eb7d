"""Watchers: clients that are told what happens, as far as they read (`docs/spec/inspect.md`, "The Inspector protocol").

A watcher never makes the daemon wait. What it doesn't read waits up to a bound; further events are dropped until it has
read all that waits, and then it is told how many they were.
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
from ..quota import Exceeded, Kind
from ..users import Account

#: Characters of an event's JSON that one message carries; a longer event comes in parts. Each takes at most four bytes:
#: a quotation mark is escaped, which takes two, and UTF-8 needs up to four.
_PART: Final = 11 * 1024


def parts(event: str) -> Iterator[str]:
    """Yield an event's JSON, or, if it is too long for a message, the JSON of events that each carry a part of it."""
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


class Watcher:
    """One client's watch: the server of its channel, and the queue of what it is to be told."""

    interface: ClassVar[type[Interface]] = inspector.Watcher

    def __init__(
        self,
        service: Service,
        channel: Channel,
        account: Account,
        request: inspector.InspectorWatchRequest,
    ) -> None:
        """Become the owner of `channel`. Raises :class:`.Exceeded` if the user may watch no more, and closes it."""
        self.traffic = bool(request.traffic)
        self.bodies = bool(request.bodies)
        self.only = request.buffer_collection_id
        self.account = account
        self._log = service.log
        self._bound = service.limits.max_outbox_bytes
        self._waiting: deque[str] = deque()
        #: Characters of what waits. See :class:`sysmemd.users.Queue`.
        self.waiting_bytes = self.waiting_descriptors = 0
        self._lost = 0
        #: Whether events are held back until the first one is there.
        self._beginning = True
        self._sending = False
        #: How many events, and how many lost ones, the message that is sent now is about.
        self._told = (0, 0)
        with ExitStack() as undo:
            undo.callback(channel.close)
            self._charge = account.charge(Kind.TRACKINGS)
            undo.callback(self._charge.close)
            self.connection: Connection = service.connect(channel, self, account)
            undo.pop_all()

    # --- the connection's server ---

    def about(self) -> dict[str, Any]:
        return {
            "channel": self.interface.__name__,
            "client_name": "",
            "client_id": self.account.peer.pid,
        }

    def held_by(self) -> None:
        """Nothing holds a watcher: it says nothing."""

    changed_by = held_by

    def expect_message(self) -> None:
        """No message may come, as there is no method."""

    def refuse(self, reason: str) -> None:
        self._log.error("a Watcher was refused", reason=reason, **self.about())
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
        """Return whether this client is told of an event about this collection, which may be a message."""
        return traffic <= self.traffic and self.only in (None, collection)

    # --- events -------------------------------------------------------------------------------------------------------

    def begin(self, first: str) -> None:
        """Tell the first event, as JSON, and then all that came meanwhile."""
        self._beginning = False
        if self.closed:
            return
        for part in reversed(list(parts(first))):
            self._waiting.appendleft(part)
            self._count(len(part))
        self._send()

    def tell(self, event: str) -> None:
        """Tell an event, as JSON, or drop it if too much waits."""
        told = list(parts(event))
        if self._lost or self.waiting_bytes + sum(map(len, told)) > self._bound:
            self._lost += 1
            return
        for part in told:
            self._waiting.append(part)
            self._count(len(part))
        self._send()

    def overflow(self, error: Exceeded) -> None:
        """See :class:`sysmemd.users.Queue`: the user's clients don't read. What waits here is dropped."""
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
        """As many of the events that wait as fit; once none waits, how many were lost."""
        if not self._waiting:
            self._told = (0, self._lost)
            return WatcherOnEventsEvent(json="[]", lost=self._lost or None)
        size, batch = 2, []
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
