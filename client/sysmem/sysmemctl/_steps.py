"""A capture as one list of steps: what clients did, and what the daemon told them, in an order that can be played.

The order is that of the capture, with two exceptions. What was sent on a token before it was turned in is processed,
and so captured, while it is turned in; here it comes before. And the capture tells of all nodes that fail because a
client closed its channel in the order in which they fail; here the close comes before all of them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from sysmem_protocol.explained import Allocator
from sysmem_protocol.library import Interface
from sysmem_protocol.rendezvous import Rendezvous
from sysmem_protocol.sysmem2 import (
    BufferCollection,
    BufferCollectionToken,
    BufferCollectionTokenGroup,
    Node,
)

from ._source import Data
from ._trouble import Trouble

#: The services whose clients are played, by their full names.
SERVICES: Final = {each.service_name(): each for each in (Allocator, Rendezvous)}
#: What is spoken on channels that are played.
PROTOCOLS: Final[dict[str, type[Interface]]] = {
    each.__name__: each
    for each in (
        *SERVICES.values(),
        BufferCollectionToken,
        BufferCollection,
        BufferCollectionTokenGroup,
    )
}
#: Why a node fails whose client closed its channel, or ended, without Release.
CLOSED: Final = "closed without Release"
_NO_STRONG_HANDLES: Final = "no strong handle to any buffer left"


class Kind(enum.Enum):
    """What a step is."""

    CONNECT = "connect"
    SEND = "send"
    CLOSE = "close"
    #: The clients give up the buffers of the collection.
    DROP = "drop"
    #: What the daemon did: it made a node, sent a message, closed a channel, …
    TOLD = "told"


@dataclass(frozen=True, eq=False)
class Step:
    """One step, of one connection; `event` is what was captured."""

    kind: Kind
    connection: int | None
    event: Data


class Steps:
    """The steps of a capture, and what its numbers mean."""

    def __init__(self, events: list[Data]) -> None:
        """Order the steps of all connections that began within the capture.

        Raises :class:`.Trouble` for a message whose body is another than that of its method.
        """
        self.steps: list[Step] = []
        #: What is spoken on each connection that is played.
        self.interfaces: dict[int, type[Interface]] = {}
        #: Who has a connection: the client's name and id, as said last.
        self.clients: dict[int, tuple[str, int]] = {}
        #: Which connection has a node, by its koid, and by the collection's id and its number.
        self.by_koid: dict[int, int] = {}
        self.koids: dict[int, int] = {}
        self.by_node: dict[tuple[int, int], int] = {}
        self.nodes: dict[int, tuple[int, int]] = {}
        #: The connections that messages on a connection made, in order.
        self.made: dict[int, list[int]] = {}
        #: Messages on connections that were there before the capture, which can't be played.
        self.unknown = 0
        self._collections: set[int] = set()
        self._closed: set[int] = set()
        self._turned_in: dict[int, Step] = {}
        for line, event in enumerate(events, 2):
            try:
                self._add(event)
            except (KeyError, TypeError) as error:
                raise Trouble(f"line {line}: the message has another body: {error!r}") from None

    def _add(self, event: Data) -> None:
        connection: int = event.get("connection", 0)  # which no connection has
        if event["event"] == "message" and connection in self.interfaces:
            self.interfaces[connection] = PROTOCOLS.get(event["protocol"], Node)
        match event["event"]:
            case "connected" if event["protocol"] in SERVICES:
                self.interfaces[connection] = SERVICES[event["protocol"]]
                self.steps.append(Step(Kind.CONNECT, connection, event))
            case "node" if event["by"] in self.interfaces:
                self._add_node(connection, event)
            case "ended" if event["collection"] in self._collections:
                self.steps.append(Step(Kind.TOLD, None, event))
            case "message" if connection not in self.interfaces:
                self.unknown += 1
            case "message" if event["direction"] == "in":
                self._add_request(connection, event)
            case "left" if connection in self.interfaces:
                self._add_left(connection, event)
            case "closed" if connection in self.interfaces:
                self._close(connection, event, len(self.steps))
                self.steps.append(Step(Kind.TOLD, connection, event))
            case "message" | "refused" if connection in self.interfaces:
                self.steps.append(Step(Kind.TOLD, connection, event))
        if connection in self.interfaces and event.get("client_name"):
            self.clients[connection] = event["client_name"], event["client_id"]

    def _add_node(self, connection: int, event: Data) -> None:
        node = event["collection"], event["node"]
        self.interfaces[connection] = Node  # what kind of node it is, its messages tell
        self.by_koid[event["koid"]] = connection
        self.koids[connection] = event["koid"]
        self.by_node[node] = connection
        self.nodes[connection] = node
        self.made.setdefault(event["by"], []).append(connection)
        self._collections.add(event["collection"])
        self.steps.append(Step(Kind.TOLD, connection, event))

    def _add_request(self, connection: int, event: Data) -> None:
        step = Step(Kind.SEND, connection, event)
        if connection in self._turned_in:
            self.steps.insert(self.steps.index(self._turned_in[connection]), step)
            return
        if event["method"] == "BindSharedCollection":
            token = self.by_koid.get(event["body"]["token"]["koid"])
            if token is not None:
                self._turned_in[token] = step
        self.steps.append(step)

    def _add_left(self, connection: int, event: Data) -> None:
        place = len(self.steps)
        while place and _explains(self.steps[place - 1], connection):
            place -= 1
        if event["cause"] is None:
            self._close(connection, event, place)  # after Release
        elif event["cause"] == CLOSED:
            first = self.by_node.get((event["collection"], event["first"]))
            if first is not None:
                self._close(first, event, place)
        elif event["cause"] == _NO_STRONG_HANDLES:
            self.steps.insert(place, Step(Kind.DROP, None, event))
        self.steps.append(Step(Kind.TOLD, connection, event))

    def _close(self, connection: int, event: Data, place: int) -> None:
        if connection not in self._closed:
            self._closed.add(connection)
            self.steps.insert(place, Step(Kind.CLOSE, connection, event))


def _explains(step: Step, connection: int) -> bool:
    return step.connection == connection and step.event.get("method") == "OnExplained"
