"""Events for watchers (`docs/spec/inspect.md`).

Every event is an object with `event`, its kind, and `at` (RFC 3339). Those about a collection have its id as
`collection`, those about a node its number as `node`, those about a channel the connection's number as `connection`:

- `watching`: the first one, with a small `snapshot`;
- `connected`, `closed`, `refused`: a channel, with its `protocol` and process, or the `reason`;
- `node`: a node is served on a channel, or has changed its state; `by` is the connection whose message created it;
- `left`: a node has left its tree, or its client has released and closed it; in the first case with `cause`, `line`
  and the number of the `first` node that failed;
- `said`: a collection's log entry, including entries below the log's level;
- `ended`: a collection has ended; the data are those of a snapshot;
- `message`, with traffic only: `direction` ("in" is from the client), `txid`, `protocol`, `method`, the names of the
  `fields` that are set, the number of `descriptors`, the `error` of a response, and with bodies the `body`;
- `part`: a piece of the JSON of an event that is too long for one message; the `last` one completes it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Protocol, Self

import msgspec

from sysmem_protocol import inspector
from sysmem_protocol.handles import Handle
from sysmem_protocol.json_data import write_table
from sysmem_protocol.library import HandleKind, HandleType, Method, Table
from sysmem_protocol.sysmem2 import Error

from ..channels import Connection
from ..channels.connection import Tracer
from ..channels.nodes import NodeServer
from ..channels.reasons import told
from ..channels.server import Server
from ..ports import Log
from ..tree import Cause, Failure, NodeData, State
from .processes import command
from .snapshot import Daemon, Json, rfc_3339
from .watchers import Watcher

#: Protocols whose own messages are not reported, because the reports would cause further reports.
_OWN = (inspector.Inspector, inspector.Watcher)


class Listener(Protocol):
    """A recipient of events: a :class:`.Watcher`, or a test."""

    @property
    def traffic(self) -> bool:
        """Whether it receives messages too."""

    @property
    def bodies(self) -> bool:
        """Whether it receives the contents of messages."""

    @property
    def closed(self) -> bool:
        """Whether it receives nothing any more."""

    def wants(self, collection: int | None, *, traffic: bool) -> bool:
        """Return whether it wants an event about this collection. `traffic`: the event is a message."""

    def tell(self, event: str) -> None:
        """Send an event, as JSON."""


class Events(Tracer):
    """Reports channels, nodes and collections to watchers."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self.active = False
        self._daemon = daemon
        self._service = daemon.service
        self._watchers: list[Listener] = []
        self._traffic = False
        #: The last reported state of nodes.
        self._states: dict[NodeData, State] = {}

    def add(self, watcher: Listener) -> None:
        """Report to a watcher from now on, until it is closed."""
        self._watchers.append(watcher)
        self._count()

    def _count(self) -> None:
        self._watchers = [watcher for watcher in self._watchers if not watcher.closed]
        self.active = bool(self._watchers)
        self._traffic = any(watcher.traffic for watcher in self._watchers)
        if not self.active:
            self._states.clear()

    # --- reports of channels ------------------------------------------------------------------------------------------

    def received(
        self, connection: Connection, method: Method, txid: int, request: Table | None
    ) -> None:
        """See :class:`.Tracer`."""
        if self._traffic:
            self._message("in", connection, method, txid, request)

    def sent(
        self, connection: Connection, method: Method, txid: int, answer: Table | Error | None
    ) -> None:
        """See :class:`.Tracer`."""
        if self._traffic:
            self._message("out", connection, method, txid, answer)

    def processed(self, connection: Connection) -> None:
        """See :class:`.Tracer`."""
        server = connection.server
        if not isinstance(server, NodeServer):
            return
        node = server.node
        # A node that this message has made fail has left already.
        if node.in_tree and self._states.get(node) != node.state:
            self._node(server, None)

    def served(self, connection: Connection, by: int) -> None:
        """See :class:`.Tracer`."""
        assert isinstance(connection.server, NodeServer)
        self._node(connection.server, by)

    def left(self, connection: Connection, server: Server) -> None:
        """See :class:`.Tracer`."""
        assert isinstance(server, NodeServer)
        node = server.node
        self._states.pop(node, None)
        failure = node.failure
        about = self._about(connection, server) | {
            "state": node.state.name.lower(),
            "cause": failure and failure.cause.value,
            "line": failure and _line(failure, node),
            "first": failure and failure.first.number,
        }
        self._tell("left", about)

    def opened(self, connection: Connection) -> None:
        """See :class:`.Tracer`."""
        server, peer = connection.server, connection.account.peer
        if not isinstance(server, NodeServer):
            about = self._about(connection) | {
                "protocol": server.interface.service_name(),
                "pid": peer.pid,
                "uid": peer.uid,
                "command": command(peer.pid),
            }
            self._tell("connected", about)

    def closed(self, connection: Connection) -> None:
        """See :class:`.Tracer`."""
        self._tell("closed", self._about(connection))
        if isinstance(connection.server, Watcher):
            self._count()

    def refused(self, connection: Connection, reason: str) -> None:
        """See :class:`.Tracer`."""
        self._tell("refused", self._about(connection) | {"reason": reason})

    # --- reports of others --------------------------------------------------------------------------------------------

    def said(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        """Report a collection's log entry."""
        kept = {name: value for name, value in fields.items() if name != "exc_info"}
        id = kept.pop("collection_id", None)
        self._tell("said", {"collection": id, "level": level, "text": event, "fields": kept})

    def ended(self, ended: Json) -> None:
        """Report that a collection has ended."""
        self._tell("ended", {"collection": ended["id"], **ended})

    # --- events -------------------------------------------------------------------------------------------------------

    def _node(self, server: NodeServer, by: int | None) -> None:
        node = server.node
        self._states[node] = node.state
        about = self._about(server.connection) | {
            "parent": node.parent and node.parent.number,
            "kind": node.kind.value,
            "state": node.state.name.lower(),
            "koid": server.koid,
            "by": by,
        }
        self._tell("node", about)

    def _message(
        self,
        direction: str,
        connection: Connection,
        method: Method,
        txid: int,
        content: Table | Error | None,
    ) -> None:
        interface = connection.server.interface
        if interface in _OWN:
            return
        table = content if isinstance(content, Table) else None
        fields = [] if table is None else [member.name for member, _ in table.set_fields()]
        event = self._about(connection) | {
            "direction": direction,
            "txid": txid,
            "protocol": interface.__name__,
            "method": method.wire_name,
            "fields": fields,
            "descriptors": 0 if table is None else _descriptors(table),
            "error": content.name if isinstance(content, Error) else None,
        }
        self._tell("message", event, traffic=True, content=table)

    def _tell(
        self, kind: str, event: Json, *, traffic: bool = False, content: Table | None = None
    ) -> None:
        """Send an event to the watchers that want it. An error in it must not affect anything else."""
        written: dict[bool, str] = {}
        about = event.get("collection")
        try:
            watchers = [each for each in self._watchers if each.wants(about, traffic=traffic)]
            if not watchers:
                return
            whole = {"event": kind, "at": rfc_3339(time.time(), "microseconds"), **event}
            for watcher in watchers:
                bodies = traffic and watcher.bodies
                if bodies not in written:
                    body = {} if not bodies else {"body": self._body(content)}
                    written[bodies] = _encode({**whole, **body}).decode()
                watcher.tell(written[bodies])
        except Exception:
            self._service.log.error(
                "an event could not be sent to watchers", kind=kind, exc_info=True
            )

    def _about(self, connection: Connection, server: Server | None = None) -> Json:
        """Return the channel and client that an event is about. A closed channel no longer has a `server`."""
        server = server or connection.server
        about: Json = {"connection": connection.number, "collection": None, "node": None}
        if isinstance(server, NodeServer):
            node = server.node_or_none
            if node is not None:
                about |= {"collection": node.collection.id, "node": node.number}
                about |= {"client_name": node.client.name, "client_id": node.client.id}
        else:
            told = server.about()
            about |= {"client_name": told["client_name"], "client_id": told["client_id"]}
        return about

    def _body(self, table: Table | None) -> Json | None:
        return None if table is None else write_table(table, "$", self._handle)

    def _handle(self, kind: HandleType, handle: Handle, path: str) -> Json:
        """Return the object that a descriptor in a message refers to."""
        service = self._service
        shown: Json = {"handle": kind.kind.value}
        match kind.kind:
            case HandleKind.CLIENT_END:
                shown["koid"] = service.koid_of(handle)
            case HandleKind.VMO:
                known = service.memory.identify(handle.fileno())
                if known is not None:
                    shown |= {"collection": known.collection_id, "buffer": known.buffer_index}
            case HandleKind.EVENT:
                node = service.node_refs.node(handle)
                if node is not None:
                    shown |= {"collection": node.collection.id, "node": node.number}
        return shown


class SaidLog:
    """A log whose entries are also reported as events; a :class:`sysmemd.ports.Log`."""

    def __init__(self, log: Log, events: Events, bound: Mapping[str, Any] | None = None) -> None:
        self._log = log
        self._events = events
        self._bound = bound or {}

    def bind(self, **fields: Any) -> Self:
        """See :class:`.Log`."""
        return type(self)(self._log.bind(**fields), self._events, {**self._bound, **fields})

    def debug(self, event: str, **fields: Any) -> None:
        """See :class:`.Log`."""
        self._say("debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        """See :class:`.Log`."""
        self._say("info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        """See :class:`.Log`."""
        self._say("warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        """See :class:`.Log`."""
        self._say("error", event, fields)

    def _say(self, level: str, event: str, fields: Mapping[str, Any]) -> None:
        if self._events.active:
            self._events.said(level, event, {**self._bound, **fields})
        getattr(self._log, level)(event, **fields)


def _line(failure: Failure, node: NodeData) -> str:
    """Return why a node failed, without restriction."""
    attempt = node.collection.last_attempt
    if failure.cause is Cause.ALLOCATION and attempt is not None:
        return attempt.reason
    return told(failure)


def _descriptors(table: Table) -> int:
    """Return the number of descriptors in a message."""
    count = 0
    for _, value in table.set_fields():
        if isinstance(value, Handle):
            count += 1
        elif isinstance(value, Table):
            count += _descriptors(value)
        elif isinstance(value, list):
            count += sum(
                _descriptors(one) if isinstance(one, Table) else isinstance(one, Handle)
                for one in value
            )
    return count


_encode = msgspec.json.Encoder(enc_hook=str).encode
