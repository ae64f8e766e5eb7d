"""The logical buffer collection: a tree of nodes, synchronous, without sockets or an event loop.

What clients say is called on nodes; what follows is told through ports (a node's channel, memory, the clock, the
log). See :mod:`.state` for the life of a node, :mod:`.failure` for how far failures go, :mod:`.allocate` for what an
attempt does.
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
