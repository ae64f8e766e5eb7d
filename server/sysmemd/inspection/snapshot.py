"""The daemon's state as JSON data (`docs/spec/inspect.md`, "Snapshot").

It is collected in slices. Objects that are created or removed meanwhile may be missing or present; each node is
described at one moment. Tables stay tables (:class:`Shown`) until the data are encoded elsewhere.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeAlias, cast

import msgspec

from sysmem_protocol.inspector import SCHEMA
from sysmem_protocol.library import Table
from sysmem_protocol.sysmem2 import BufferCollectionConstraints

from ..channels import Connection, Service
from ..channels.nodes import NodeServer
from ..channels.service import Party
from ..memory import Buffer, Buffers, Hold, OneFileBuffer
from ..pause import give_way, giving_way
from ..ports import Peer
from ..quota import Kind
from ..tree import Allocated, LogicalBufferCollection, NodeData
from ..tree.state import READY
from ..users import User
from .ended import EndedCollection, EndedCollections
from .processes import Commands, descriptor_limit, open_descriptors

#: JSON data.
Json: TypeAlias = dict[str, Any]

_EMPTY: Final = BufferCollectionConstraints()
_HOLDS: Final = {
    Hold.SERVER: "server",
    Hold.STRONG: "strong",
    Hold.WEAK: "weak",
    Hold.UNKNOWN: "weak",
    Hold.GONE: "gone",
}


class Shown:
    """A table in JSON data."""

    __slots__ = ("table",)

    def __init__(self, table: Table) -> None:
        self.table = table


@dataclass(frozen=True, slots=True)
class Daemon:
    """The data about the whole daemon."""

    service: Service
    ended: EndedCollections
    version: str
    runtime_dir: Path | None
    #: When it began to serve, by the wall clock (seconds) and by its own clock (nanoseconds).
    started: float
    began: int

    def wall_time(self, at: int) -> str:
        """Return a time on the daemon's clock as wall clock time (RFC 3339)."""
        return rfc_3339(time.time() - (self.service.clock.now() - at) / 1e9)

    def find(self, id: int) -> LogicalBufferCollection | None:
        """Return a collection that lives, or that has ended while buffers of it exist."""
        return self.service.collections.get(id) or self.service.lingering.get(id)

    def told(self, ended: EndedCollection) -> Json:
        """Return the data about an ended collection."""
        return {
            "id": ended.id,
            "name": ended.name,
            "ended": self.wall_time(ended.at),
            "how": "released" if ended.released else "failed",
            "cause": ended.cause,
            "node": ended.node,
            "client_name": ended.client_name,
            "line": ended.line,
            "error": ended.error,
        }


def rfc_3339(seconds: float, to: str = "milliseconds") -> str:
    """Return a time since the epoch as text, in UTC."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec=to)
    return text.replace("+00:00", "Z")


class Snapshot:
    """One description of everything, or of one collection."""

    def __init__(self, daemon: Daemon, id: int | None = None) -> None:
        """Describe only the collection `id`, or all."""
        self._daemon = daemon
        self._service = daemon.service
        self._id = id
        self._now = daemon.service.clock.now()
        self._commands = Commands()

    def gather(self) -> Json:
        """Return the data. This takes time."""
        service = self._service
        connections = [
            self._connection(connection)
            for connection in giving_way(list(service.reactor.connections()))
            # Connections that close while others are described no longer have a server.
            if not connection.closed and not isinstance(connection.server, NodeServer)
        ]
        collections = []
        for collection in [*service.collections.values(), *service.lingering.values()]:
            party = service.parties.get(collection.id)
            if party is not None and self._id in (None, collection.id):
                collections.append(self._collection(collection, party))
                give_way()
        return {
            "schema": SCHEMA,
            **self.numbers(),
            "connections": connections,
            "collections": collections,
            "ended": [
                self._daemon.told(one) for one in self._daemon.ended if self._id in (None, one.id)
            ],
        }

    def numbers(self) -> Json:
        """Return the running counters. They do not require a look at every node."""
        service = self._service
        # An ended collection is not charged to an account, but it is among those that are described.
        ended = Counter(service.parties[id].owner.user for id in service.lingering)
        users = [
            self._user(user, ended[user])
            for user in sorted(service.users, key=lambda user: user.uid)
            if not user.tally.is_empty()
        ]
        return {
            "daemon": self._about(),
            "totals": {kind.value: sum(user[kind.value] for user in users) for kind in _COUNTED},
            "heaps": self._heaps(),
            "users": users,
        }

    # --- the daemon ---------------------------------------------------------------------------------------------------

    def _about(self) -> Json:
        daemon = self._daemon
        return {
            "version": daemon.version,
            "pid": os.getpid(),
            "uid": os.geteuid(),
            "started": rfc_3339(daemon.started),
            "uptime_s": self._seconds(daemon.began),
            "runtime_dir": None if daemon.runtime_dir is None else str(daemon.runtime_dir),
            "limits": msgspec.to_builtins(self._service.limits),
            "descriptors": {"open": open_descriptors(), "limit": descriptor_limit()},
        }

    def _heaps(self) -> list[Json]:
        return [
            {
                "heap_type": heap.properties.heap_type,
                "id": heap.properties.id,
                "domains": sorted(domain.name.lower() for domain in heap.properties.domains),
                "secure": heap.properties.secure,
                "bytes": heap.used_bytes,
                "max_bytes": heap.properties.max_bytes,
                "buffers": buffers,
            }
            for heap, buffers in self._service.memory.heaps()
        ]

    def _user(self, user: User, ended: int) -> Json:
        counts = {kind.value: user.tally[kind] for kind in Kind}
        counts["collections"] += ended
        return {
            "uid": user.uid,
            **counts,
            "limits": {kind.value: user.limits.get(kind) for kind in Kind},
        }

    def _seconds(self, since: int) -> float:
        return round((self._now - since) / 1e9, 3)

    # --- connections --------------------------------------------------------------------------------------------------

    def _connection(self, connection: Connection) -> Json:
        account = connection.account
        about = connection.server.about()
        return {
            "number": connection.number,
            "protocol": connection.server.interface.service_name(),
            **self._process(account.peer, connection.since),
            "client_name": about["client_name"],
            "client_id": about["client_id"],
            "received": connection.received,
            "sent": connection.sent,
            "unanswered": connection.unanswered,
            "queued": connection.queued,
        }

    def _process(self, peer: Peer, since: int) -> Json:
        command = self._commands.of(peer.pid, (self._now - since) / 1e9)
        return {"pid": peer.pid, "uid": peer.uid, "command": command}

    # --- collections --------------------------------------------------------------------------------------------------

    def _collection(self, collection: LogicalBufferCollection, party: Party) -> Json:
        buffers = cast("Buffers | None", collection.buffers)
        existing = [] if buffers is None else [b for b in buffers.buffers if b.hold != Hold.GONE]
        allocation = collection.allocation
        described: Json = {
            "id": collection.id,
            "name": collection.name,
            "age_s": self._seconds(collection.created),
            "uid": party.owner.user.uid,
            "state": state_of(collection),
            "waiting_for": [],
            "settings": Shown(allocation.settings) if allocation else None,
            "buffer_count": allocation and allocation.buffer_count,
            "buffers": [_buffer(buffers, one) for one in existing] if buffers else [],
            "nodes": [],
        }
        for node in giving_way(collection.nodes(), 8):
            if not node.in_tree:
                continue  # the node has left while others were described
            server = node.channel
            assert isinstance(server, NodeServer)
            if not node.subtree.allocated and node.state not in READY:
                described["waiting_for"].append(node.number)
            described["nodes"].append(self._node(node, server))
        return described

    def _node(self, node: NodeData, server: NodeServer) -> Json:
        outcome = node.outcome
        return {
            "number": node.number,
            "parent": node.parent and node.parent.number,
            "kind": node.kind.value,
            "state": node.state.name.lower(),
            "ready": node.state in READY,
            "connected": node.is_connected,
            "released": node.is_released,
            "weak": node.is_weak,
            "isolation": node.isolation.value,
            "rights_mask": node.rights_mask,
            "client_name": node.client.name,
            "client_id": node.client.id,
            **self._process(server.peer, node.created),
            "koid": server.koid,
            "constraints": Shown(node.constraints or _EMPTY) if node.has_constraints else None,
            "must_match": node.must_match is not None,
            "outcome": "success" if isinstance(outcome, Allocated) else outcome and outcome.name,
            "age_s": self._seconds(node.created),
            "received": server.connection.received,
            "sent": server.connection.sent,
            "queued": server.connection.queued,
        }


_COUNTED: Final = (Kind.CONNECTIONS, Kind.COLLECTIONS, Kind.NODES, Kind.BUFFERS, Kind.BYTES)


def state_of(collection: LogicalBufferCollection) -> str:
    if collection.failure is not None:
        return "failing"  # or has failed, and what is left of it is buffers that somebody holds
    return "allocated" if collection.is_allocated else "negotiating"


def _buffer(buffers: Buffers, buffer: Buffer | OneFileBuffer) -> Json:
    _, inode = buffer.identity
    return {
        "index": buffer.index,
        "size": buffer.size,
        "inode": inode,
        "name": buffers.vmo_name(buffer.index),
        "state": _HOLDS[buffer.hold],
    }
