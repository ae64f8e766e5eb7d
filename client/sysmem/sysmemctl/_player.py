"""Replays the steps of a capture against a daemon, with simulated clients in this process.

The daemon's Inspector reports events as it did in the capture. Before each action of a client, the player waits for
everything that the daemon had sent to its clients before that action in the capture. This keeps the order the same.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, Self

from sysmem_protocol.channel import PeerClosedError
from sysmem_protocol.codec import Decoder, encode
from sysmem_protocol.handles import Handle
from sysmem_protocol.json_data import JsonError, read
from sysmem_protocol.library import HandleKind, HandleType, Method, Nested, Table
from sysmem_protocol.message import parse
from sysmem_protocol.rendezvous import Rendezvous
from sysmem_protocol.sysmem2 import Allocator

from .._calls import datagram
from .._connect import open_service
from .._inspector import Events
from .._timeouts import deadline, milliseconds, remaining
from ._belongings import Belongings
from ._numbers import Numbers
from ._source import Data
from ._steps import SERVICES, Kind, Step, Steps
from ._trouble import Trouble

_decoder: Final = Decoder()


class Player:
    """One replay. Numbers of connections, collections and koids are the capture's unless a comment says otherwise."""

    def __init__(
        self, steps: Steps, runtime_dir: list[Path], events: Events, timeout: float | None
    ) -> None:
        """Prepare a replay against the daemon in `runtime_dir`. `events` is a new watch with bodies on that daemon."""
        self._steps = steps
        self._runtime_dir = runtime_dir
        self._events = events
        self._timeout = timeout
        #: What the daemon sent to the simulated clients, with the numbers of the capture.
        self.told: list[Data] = []
        #: The number of messages that could not be sent because their channels had closed.
        self.unsent = 0
        self._numbers = Numbers(steps)
        self._belongings = Belongings(steps, self._numbers)
        self._played: set[int] = set()
        #: How often each event should have occurred by now, and how often it has. Awaited events are keys of both.
        self._expected: Counter[tuple[str, int]] = Counter()
        self._seen: Counter[tuple[str, int]] = Counter()
        self._awaited: set[tuple[str, int]] = set()
        #: Connections for which no more events are awaited.
        self._over: set[int] = set()
        #: Connections whose end has been received.
        self._hung_up: set[int] = set()
        self._connecting: int | None = None
        self._parts: dict[int, list[Handle]] = {}
        self._last_use = {
            buffer["collection"]: index
            for index, step in enumerate(steps.steps)
            if step.kind is Kind.SEND
            for buffer in _buffers(step.event["body"])
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with self._belongings:
            for handle in (handle for parts in self._parts.values() for handle in parts):
                handle.close()

    def play(self) -> None:
        """Play all steps, and wait for the daemon's last messages."""
        for index, step in enumerate(self._steps.steps):
            if step.kind is Kind.TOLD:
                self._expect_told(step, index)
                continue
            self._await()
            match step.kind:
                case Kind.CONNECT:
                    self._connect(step)
                case Kind.SEND:
                    self._send(step)
                case Kind.CLOSE:
                    assert step.connection is not None
                    self._belongings.close_end(step.connection)
                case Kind.DROP:
                    self._belongings.drop(step.event["collection"])
        self._await()

    # --- actions of clients -----------------------------------------------------------------------------------------

    def _connect(self, step: Step) -> None:
        assert step.connection is not None
        interface = SERVICES[step.event["protocol"]]
        channel, _ = open_service(
            self._runtime_dir, interface, may_wait=True, timeout=self._timeout
        )
        self._belongings.connected(step.connection, channel)
        self._connecting = step.connection
        self._expect("connected", step.connection)
        self._await()

    def _send(self, step: Step) -> None:
        assert step.connection is not None
        end = self._belongings.end(step.connection)
        if end is None:
            self.unsent += 1
            return
        event = step.event
        methods = self._steps.interfaces[step.connection].methods.values()
        known = {each.wire_name: each for each in methods}
        if event["method"] not in known:
            raise Trouble(
                f"this version does not know the method {event['method']} at {event['at']}"
            )
        method = known[event["method"]]
        with ExitStack() as handles:
            body = b""
            sent: list[Handle] = []
            if method.request is not None:
                body, sent = encode(self._request(method, method.request, event, handles))
            data = datagram(method, body, event["txid"])
            try:
                while not end.send(data, sent):
                    if not self._pump(self._timeout):
                        raise TimeoutError("the daemon receives nothing")
            except PeerClosedError:
                self.unsent += 1
                return
        self._expect("in", step.connection)
        # Messages on different channels must be processed in the order of the capture.
        self._await()

    def _request(self, method: Method, kind: type[Table], event: Data, handles: ExitStack) -> Table:
        data = dict(event["body"])
        if method is Allocator.validate_buffer_collection_token:
            koid = data["token_server_koid"]
            data["token_server_koid"] = self._numbers.koid(koid) or koid
        if method is Rendezvous.offer:
            data.pop("to_uid", None)  # all simulated clients belong to this user

        def handle(type_: HandleType, value: Any, path: str) -> Handle:
            found = self._belongings.handle(type_.kind, value)
            handles.callback(found.close)
            return found

        try:
            request: Table = read(Nested(kind), data, "$", handle)
        except JsonError as error:
            raise Trouble(f"{method} at {event['at']} can't be played: {error}") from None
        return request

    # --- actions of the daemon --------------------------------------------------------------------------------------

    def _expect_told(self, step: Step, index: int) -> None:
        """Expect what the daemon sent in the capture, to be awaited before the next action of a client."""
        event = step.event
        match event["event"]:
            case "ended":
                self._expect("ended", event["collection"])
                if self._last_use.get(event["collection"], 0) <= index:
                    self._await()
                    self._belongings.drop(event["collection"])
            case "node":
                self._expect("made", event["by"])
            case "message":
                assert step.connection is not None
                self._expect("out", step.connection)
                self._expect("received", step.connection)
            case kind:
                assert step.connection is not None
                self._expect(kind, step.connection)

    def _expect(self, what: str, number: int) -> None:
        self._expected[what, number] += 1
        self._awaited.add((what, number))

    def _await(self) -> None:
        """Wait until all expected events have occurred, or their channels have closed or time out."""
        end = deadline(self._timeout)
        while lacking := [key for key in self._awaited if self._lacks(key)]:
            if not self._pump(remaining(end)):
                self._over.update(number for _, number in lacking)
                break
        self._awaited.clear()

    def _lacks(self, key: tuple[str, int]) -> bool:
        kind, number = key
        if self._seen[key] >= self._expected[key] or number in self._over:
            return False
        if kind == "received" and self._belongings.end(number) is None:
            return False
        if kind not in ("connected", "made", "ended") and number not in self._played:
            return False  # this channel does not exist in the replay
        return kind == "closed" or not self._seen["closed", number]

    def _pump(self, timeout: float | None) -> bool:
        """Process incoming events and messages. Return False if there were none within this time."""
        poll = select.poll()
        ends = {
            end.fileno(): connection
            for connection, end in self._belongings.ends()
            if connection not in self._hung_up
        }
        for fd in ends:
            poll.register(fd, select.POLLIN)
        poll.register(self._events.fileno(), select.POLLIN)
        found = poll.poll(milliseconds(timeout))
        for fd, _ in found:
            if fd in ends:
                self._receive(ends[fd])
            else:
                self._take_events()
        return bool(found)

    def _receive(self, connection: int) -> None:
        end = self._belongings.end(connection)
        assert end is not None
        try:
            arrived = end.receive()
        except PeerClosedError:
            self._hung_up.add(connection)
            return
        if arrived is None:
            return
        message = parse(*arrived)
        parts = self._parts.setdefault(connection, [])
        parts += message.handles
        if message.more:
            return
        del self._parts[connection]
        self._seen["received", connection] += 1
        if message.txid == 0:
            for handle in parts:
                handle.close()
            return
        method = self._steps.interfaces[connection].methods[message.ordinal]
        self._belongings.keep(connection, _decoder.response(method, message.body, parts))

    def _take_events(self) -> None:
        with contextlib.suppress(TimeoutError):
            while True:
                self._take(self._events.next(0))

    def _take(self, event: Data) -> None:
        """Record an event if it is about a simulated client."""
        kind: str = event["event"]
        number: int = event.get("connection", 0)  # which no connection has
        if kind == "lost":
            raise Trouble(f"{event['count']} events of the replay were lost")
        if kind == "ended":
            collection = self._numbers.collection(event["collection"])
            if collection is not None:
                self._tell("ended", collection, event)
            return
        if kind == "connected" and self._connecting is not None and event["pid"] == os.getpid():
            if event["protocol"] in SERVICES:
                self._numbers.connections[number] = self._connecting
                self._played.add(self._connecting)
                self._seen["connected", self._connecting] += 1
                self._connecting = None
            return
        if kind == "node" and event["by"] in self._numbers.connections:
            self._take_node(event)
        connection = self._numbers.connections.get(number)
        if connection is None:
            return
        if kind == "message" and event["direction"] == "in":
            self._seen["in", connection] += 1
        elif kind == "message":
            self._tell("out", connection, event)
        elif kind in ("left", "closed", "refused"):
            self._tell(kind, connection, event)

    def _take_node(self, event: Data) -> None:
        connection = self._numbers.pair(event)
        if connection is not None:
            self._played.add(connection)
            self._seen["made", self._numbers.connections[event["by"]]] += 1
            self._tell("node", connection, event)

    def _tell(self, kind: str, number: int, event: Data) -> None:
        self._seen[kind, number] += 1
        self.told.append(self._numbers.translated(event))


def _buffers(body: Any) -> list[Data]:
    """Return the buffers whose VMOs a message contains."""
    if isinstance(body, dict):
        if body.get("handle") == HandleKind.VMO.value:
            return [body] if "buffer" in body else []
        body = list(body.values())
    return [found for each in body for found in _buffers(each)] if isinstance(body, list) else []
