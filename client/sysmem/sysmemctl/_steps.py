"""A capture as one list of steps, the clients' actions and the daemon's messages, in an order that can be replayed.

The order is that of the capture, with two exceptions. Messages that were sent on a token before it was turned in are
processed and captured while it is turned in; here they come before that step. If a client closes its channel and
several nodes fail, the capture lists all of them in the order of failure; here the close comes before all of them.
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

#: The services whose clients are simulated, by full name.
SERVICES: Final = {each.service_name(): each for each in (Allocator, Rendezvous)}
#: The protocols of replayed channels.
PROTOCOLS: Final[dict[str, type[Interface]]] = {
    each.__name__: each
    for each in (
        *SERVICES.values(),
        BufferCollectionToken,
        BufferCollection,
        BufferCollectionTokenGroup,
    )
}
#: The reason of a node's failure when its client closed its channel, or ended, without Release.
CLOSED: Final = "closed without Release"
_NO_STRONG_HANDLES: Final = "no strong handle to any buffer left"


class Kind(enum.Enum):
    """The kind of a step."""

    CONNECT = "connect"
    SEND = "send"
    CLOSE = "close"
    #: The clients close the buffers of the collection.
    DROP = "drop"
    #: An action of the daemon: it created a node, sent a message, closed a channel, …
    TOLD = "told"


@dataclass(frozen=True, eq=False)
class Step:
    """One step of one connection. `event` is the captured event."""

    kind: Kind
    connection: int | None
    event: Data


class Steps:
    """The steps of a capture, and the meaning of its numbers."""

    def __init__(self, events: list[Data]) -> None:
        """Order the steps of all connections that began within the capture.

        Raises :class:`.Trouble` if a message's body is not that of its method.
        """
        self.steps: list[Step] = []
        #: The protocol of each replayed connection.
        self.interfaces: dict[int, type[Interface]] = {}
        #: The client of each connection: its last name and id.
        self.clients: dict[int, tuple[str, int]] = {}
        #: The connection of each node, by koid, and by collection id and node number.
        self.by_koid: dict[int, int] = {}
        self.koids: dict[int, int] = {}
        self.by_node: dict[tuple[int, int], int] = {}
        self.nodes: dict[int, tuple[int, int]] = {}
        #: The connections that messages on a connection created, in order.
        self.made: dict[int, list[int]] = {}
        #: The number of messages on connections from before the capture, which cannot be replayed.
        self.unknown = 0
        self._collections: set[int] = set()
        self._closed: set[int] = set()
        self._turned_in: dict[int, Step] = {}
        for line, event in enumerate(events, 2):
            try:
                self._add(event)
            except (KeyError, TypeError) as error:
                raise Trouble(f"line {line}: the message has an invalid body: {error!r}") from None

    def _add(self, event: Data) -> None:
        connection: int = event.get("connection", 0)  # 0 is no connection's number
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
        self.interfaces[connection] = Node  # the node's messages determine its kind later
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
