"""The logical buffer collection: a tree of nodes, synchronous, without sockets or an event loop.

Messages from clients are method calls on nodes. Results go out through ports (a node's channel, memory, the clock, the
log). See :mod:`.state` for the life of a node, :mod:`.failure` for failure propagation, and :mod:`.allocate` for
allocation attempts.
"""

from .collection import LogicalBufferCollection
from .data import Cause, CollectionData, Failure, NodeData, Who
from .node import Node
from .outcome import Allocated, Attempt, RefusedSelection
from .ports import BufferMaker, Buffers, Misuse, NodeChannel, NotInCollection, WhoHas
from .state import Isolation, NodeKind, State
from .trackings import MAX_NODE_TRACKINGS

__all__ = [
    "MAX_NODE_TRACKINGS",
    "Allocated",
    "Attempt",
    "BufferMaker",
    "Buffers",
    "Cause",
    "CollectionData",
    "Failure",
    "Isolation",
    "LogicalBufferCollection",
    "Misuse",
    "Node",
    "NodeChannel",
    "NodeData",
    "NodeKind",
    "NotInCollection",
    "RefusedSelection",
    "State",
    "Who",
    "WhoHas",
]
