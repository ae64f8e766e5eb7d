"""The client of the Inspector protocol (`docs/spec/inspect.md`), which examines a running daemon.

It has only blocking calls, because its users are commands and tests.
"""

from __future__ import annotations

import json
import os
import select
import socket
from collections.abc import Iterator
from typing import Any, Self

from sysmem_protocol.channel import Channel, PeerClosedError
from sysmem_protocol.codec import Decoder
from sysmem_protocol.handles import Handle
from sysmem_protocol.inspector import (
    Inspector as Interface,
)
from sysmem_protocol.inspector import (
    InspectorExplainRequest,
    InspectorSnapshotRequest,
    InspectorWatchRequest,
    Watcher,
    WatcherOnEventsEvent,
)
from sysmem_protocol.message import parse
from sysmem_protocol.runtime import runtime_dirs

from ._blocking.channel_object import ChannelObject
from ._connect import open_service
from ._timeouts import deadline, milliseconds, remaining
from ._vmo import Vmo

_decoder = Decoder()


class Inspector(ChannelObject):
    """A connection to the Inspector of a daemon."""

    __slots__ = ()
    _interface = Interface

    @classmethod
    def connect(
        cls, runtime_dir: str | os.PathLike[str] | None = None, *, timeout: float | None = None
    ) -> Self:
        """Connect to the daemon that `sysmem.connect` would find.

        Raises `DaemonUnavailableError`, `TimeoutError` and `OSError` as `sysmem.blocking.connect` does.
        """
        channel, _ = open_service(
            runtime_dirs(runtime_dir), Interface, may_wait=True, timeout=timeout
        )
        return cls(channel.take())

    def snapshot(
        self, buffer_collection_id: int | None = None, *, timeout: float | None = None
    ) -> dict[str, Any]:
        """Return the daemon's state, or only one of its collections. Raises `SysmemError` with NOT_FOUND."""
        request = InspectorSnapshotRequest(buffer_collection_id=buffer_collection_id)
        answer = self._call(Interface.snapshot, request, timeout)
        return _read(self._field(answer, "snapshot", Vmo))

    def explain(self, buffer_collection_id: int, *, timeout: float | None = None) -> dict[str, Any]:
        """Return the explanation of a collection's state or end. Raises `SysmemError` with NOT_FOUND."""
        request = InspectorExplainRequest(buffer_collection_id=buffer_collection_id)
        answer = self._call(Interface.explain, request, timeout)
        return _read(self._field(answer, "explanation", Vmo))

    def watch(
        self,
        *,
        traffic: bool = False,
        bodies: bool = False,
        buffer_collection_id: int | None = None,
        timeout: float | None = None,
    ) -> Events:
        """Make the daemon report events from now on. The caller closes the result.

        Args:
            traffic: Report each message too.
            bodies: Report the contents of messages too.
            buffer_collection_id: The only collection to report on; None for all.
            timeout: How long sending the request may take, in seconds.
        """
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        events = Events(Channel(near.detach()))
        try:
            with Handle(far.detach()) as watcher:
                request = InspectorWatchRequest(
                    watcher=watcher,
                    traffic=traffic,
                    bodies=bodies,
                    buffer_collection_id=buffer_collection_id,
                )
                self._send(Interface.watch, request, timeout)
        except BaseException:
            events.close()
            raise
        return events


class Events:
    """A daemon's report: an iterator over events. It stops when the daemon ends the report."""

    def __init__(self, channel: Channel) -> None:
        """Take ownership of the client end of a Watcher."""
        self._channel = channel
        #: Events that have arrived, and that `next` has not returned yet.
        self.pending: list[dict[str, Any]] = []
        #: The parts so far of an event that is too long for one message.
        self._parts: list[str] = []
        #: The number of events that the daemon dropped because they were not read in time.
        self.lost = 0

    def fileno(self) -> int:
        """Return the descriptor, which is readable when more events than those in `pending` have arrived.

        This object keeps ownership.
        """
        return self._channel.fileno()

    def close(self) -> None:
        """Stop the report. Idempotent."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            try:
                yield self.next()
            except PeerClosedError:
                return

    def next(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the next event.

        Raises:
            TimeoutError: No event arrived within `timeout` seconds.
            PeerClosedError: The daemon has ended the report.
        """
        end = deadline(timeout)
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        while not self.pending:
            if not poll.poll(milliseconds(remaining(end))):
                raise TimeoutError("no event arrived in time")
            arrived = self._channel.receive()
            if arrived is not None:
                self._take(*arrived)
        return self.pending.pop(0)

    def _take(self, data: bytes, handles: list[Handle]) -> None:
        message = parse(data, handles)
        try:
            if message.ordinal != Watcher.on_events.ordinal:
                return  # an event of a later version
            event = _decoder.table(WatcherOnEventsEvent, message.body, message.handles)
        finally:
            message.close()
        lost = event.lost or 0
        if lost:
            self.lost += lost
            self._parts.clear()
            self.pending.append({"event": "lost", "count": lost})
        for one in json.loads(event.json or "[]"):
            if one["event"] != "part":
                self.pending.append(one)
                continue
            self._parts.append(one["json"])
            if one["last"]:
                self.pending.append(json.loads("".join(self._parts)))
                self._parts.clear()


def _read(document: Vmo) -> dict[str, Any]:
    """Return the JSON in a VMO, and close the VMO."""
    with document, open(document.fileno(), "rb", closefd=False) as file:
        content: dict[str, Any] = json.load(file)
    return content
