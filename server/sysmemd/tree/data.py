"""The tree as data: a collection, its nodes, its pruned subtrees, and their counts.

The rules are in other modules, by concept: :mod:`.census` counts, :mod:`.failure` removes nodes from the tree,
:mod:`.node` adds the messages that a node accepts, :mod:`.collection` drives them.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from sysmem_protocol.sysmem2 import (
    BufferCollectionConstraints,
    Error,
    SingleBufferSettings,
)

from ..constraints import NO_HANDLES, Access, Allocation, Participant
from ..ends import every
from ..ports import ClientInfo, Clock, Closeable
from .engine import Engine
from .outcome import Allocated, Attempt
from .ports import Buffers, Level, NoChannel, NodeChannel
from .rights import ALL_RIGHTS, READ, WRITE, delivered_rights, wants_vmos
from .state import CONNECTED, RELEASED, Isolation, NodeKind, State
from .trackings import Trackings

#: The maximum number of attempts that one collection keeps.
MAX_ATTEMPTS: Final = 16


class Cause(enum.Enum):
    """The cause of a node's failure."""

    __hash__ = object.__hash__  # the enum's own is a slow function in Python

    MISUSE = "broke the protocol"
    LIMIT = "its user's quota is exhausted"
    CLOSED = "closed without Release"
    NO_CLIENTS = "no connected client left"
    NO_STRONG_NODES = "no strong node left"
    NO_STRONG_HANDLES = "no strong handle to any buffer left"
    ALLOCATION = "allocation failed"
    NOT_SELECTED = "not selected by its group"
    BROKEN = "the daemon failed"
    SHUT_DOWN = "the daemon is stopping"


@dataclass(frozen=True, slots=True)
class Who:
    """The information about a node that is kept after it has left the tree."""

    number: int
    kind: NodeKind
    client: ClientInfo
    parent: Who | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """The reason why a node left the tree. All nodes that leave with it have the same object."""

    cause: Cause
    #: The node at which the failure began.
    first: Who
    #: Further details; may be empty.
    reason: str
    #: For a node that its group did not select, the selected one.
    selected: Who | None = None


class NodeData:
    """One place in the tree of a collection: a token, a collection or a group. A failed node has left the tree."""

    __slots__ = (
        "_channel",
        "_participants",
        "_trackings",
        "_weak_ok",
        "_weak_ok_for_children",
        "attended",
        "charge",
        "children",
        "client",
        "collection",
        "constraints",
        "created",
        "depth",
        "failure",
        "has_constraints",
        "is_weak",
        "isolation",
        "kind",
        "must_match",
        "number",
        "outcome",
        "parent",
        "ref",
        "rights_mask",
        "state",
        "subtree",
    )

    def __init__(
        self,
        collection: CollectionData,
        channel: NodeChannel,
        client: ClientInfo,
        *,
        parent: NodeData | None = None,
        kind: NodeKind = NodeKind.TOKEN,
        rights_mask: int = ALL_RIGHTS,
        isolation: Isolation = Isolation.PROPAGATE,
    ) -> None:
        """Add a node to the tree, as the last child of `parent`."""
        self.collection = collection
        self.parent = parent
        #: In order of creation. Only the keys are used.
        self.children: dict[NodeData, None] = {}
        self.kind = kind
        self.state = State.GROUP if kind is NodeKind.GROUP else State.TOKEN
        self.isolation = isolation
        self.client = client
        self.rights_mask = rights_mask
        self.is_weak: bool = parent is not None and parent.is_weak
        self._weak_ok: bool = parent is not None and parent._weak_ok_for_children
        self._weak_ok_for_children: bool = self._weak_ok
        #: The constraints from SetConstraints; None with `has_constraints` is an empty table.
        self.constraints: BufferCollectionConstraints | None = None
        self.has_constraints = False
        #: The settings of SetConstraints' must_match_vmo.
        self.must_match: SingleBufferSettings | None = None
        #: The result of the node's (logical) allocation; None before.
        self.outcome: Allocated | Error | None = None
        #: The time of the node's creation, by the collection's clock.
        self.created = collection.clock.now()
        #: The reason why the node left the tree; None while it is in the tree.
        self.failure: Failure | None = None
        #: The object that identifies this node in IsAlternateFor. GetNodeRef creates it; closed when the node leaves.
        self.ref: Closeable | None = None
        #: The node's charge to its user's quota. The channel sets it; closed when the node leaves.
        self.charge: Closeable | None = None
        self._channel = channel
        self._participants: tuple[Participant, ...] | None = None
        self._trackings = Trackings()
        #: The node's number in log entries. It increases in order of creation, and is unique in the collection.
        self.number = collection.next_node_number()
        self.depth: int = 0 if parent is None else parent.depth + 1
        if parent is None or isolation is Isolation.DO_NOT_PROPAGATE:
            self.subtree = PrunedSubtree(self)
        else:
            self.subtree = parent.subtree
        #: Maintained by the census: the clients connected at or below this node.
        self.attended = 0
        if parent is not None:
            parent.children[self] = None

    def __repr__(self) -> str:
        return f"<Node {self.number} of {self.collection.id}: {self.state.value}>"

    @property
    def channel(self) -> NodeChannel:
        """The server end that serves this node, or served it last."""
        return self._channel

    @property
    def in_tree(self) -> bool:
        """Whether the node has not failed. Orphans are in the tree."""
        return self.state is not State.FAILED

    @property
    def is_released(self) -> bool:
        """Whether Release was received. The client may or may not have closed its end since."""
        return self.state in RELEASED

    @property
    def is_connected(self) -> bool:
        """Whether a client holds the other end of the channel: the node is neither an orphan nor failed."""
        return self.state in CONNECTED

    @property
    def has_allocated(self) -> bool:
        """Whether the node's (logical) allocation succeeded."""
        return isinstance(self.outcome, Allocated)

    @property
    def is_weak_ok(self) -> bool:
        """Whether SetWeakOk applies to this node, by its own call or an ancestor's."""
        return self._weak_ok

    def allocate(self, allocated: Allocated) -> None:
        """Set the result of the node's (logical) allocation."""
        self.outcome = allocated
        self._trackings.hand_over(allocated.buffers)

    def participants(self) -> tuple[Participant, ...]:
        """Return the node's participants in an aggregation: its constraints and its must_match_vmo; empty without any.

        The same objects are returned as long as nothing about them changes, because the engine caches results in them.
        """
        if self._participants is None:
            self._participants = ()
            name, id = self.client.name, self.client.id
            if self.has_constraints:
                self._participants += (
                    Participant(self.constraints, name, id, access=self._access()),
                )
            if self.must_match is not None:
                engine = self.collection.engine
                self._participants += (engine.must_match(self.must_match, name, id),)
        return self._participants

    def _access(self) -> Access:
        """Return the properties of this node's handles to the buffers."""
        rights = delivered_rights(self.constraints, self.rights_mask)
        if not wants_vmos(self.constraints) or not rights & READ:
            return NO_HANDLES
        access = Access.WRITABLE if rights & WRITE else Access.READ_ONLY
        return access | Access.WEAK if self.is_weak else access

    def answer(self) -> None:
        """Tell a collection's connected client that `outcome` was set."""
        if self.kind is NodeKind.COLLECTION and self.is_connected and not self.is_released:
            self._channel.allocated()

    def close(self) -> None:
        """Close what the node owned besides its channel, and drop references that form cycles."""
        owned = [one for one in (self._trackings, self.ref, self.charge) if one is not None]
        self._channel = NoChannel()
        del self.subtree
        every(one.close for one in owned)

    def who(self) -> Who:
        """Return the information about this node that is kept after it has left the tree."""
        parent = self.parent
        above = None if parent is None else Who(parent.number, parent.kind, parent.client)
        return Who(self.number, self.kind, self.client, above)

    def say(self, level: Level, event: str, **fields: Any) -> None:
        """Log an entry about this node."""
        self.collection.say(level, event, self, **fields)


class PrunedSubtree:
    """A start node and its descendants, except attached ones and those below them. They are allocated together.

    A node belongs to the same pruned subtree for life.
    """

    __slots__ = ("allocated", "start", "unready")

    def __init__(self, start: NodeData) -> None:
        self.start = start
        self.unready = 0
        self.allocated = False

    @property
    def may_start(self) -> bool:
        """Whether it is this subtree's turn: it is the root's, or the node that it is attached to has allocated."""
        parent = self.start.parent
        return parent is None or parent.subtree.allocated

    @property
    def is_ready(self) -> bool:
        """Whether an attempt to allocate is due."""
        return not self.allocated and self.unready == 0 and self.start.in_tree and self.may_start


class Census:
    """The counts of one collection; see :mod:`.census`."""

    __slots__ = ("ready", "strong", "unattended")

    def __init__(self) -> None:
        #: Nodes that keep buffers alive: neither weak nor orphans.
        self.strong = 0
        #: Failure domains that have lost their last connected client, innermost first.
        self.unattended: list[NodeData] = []
        #: Pruned subtrees that may have become ready.
        self.ready: list[PrunedSubtree] = []

    def take_unattended(self) -> list[NodeData]:
        """Return the failure domains without a connected client, each once, and clear the list."""
        taken, self.unattended = self.unattended, []
        return taken

    def take_ready(self) -> list[PrunedSubtree]:
        """Return the pruned subtrees that may have become ready, and clear the list."""
        taken, self.ready = self.ready, []
        return taken


class CollectionData(ABC):
    """The state that all nodes of one collection share."""

    root: NodeData

    def __init__(self, id: int, engine: Engine, clock: Clock) -> None:
        self.id = id
        self.engine = engine
        self.clock = clock
        #: When the collection was made, by its clock.
        self.created = clock.now()
        #: The collection's current name; empty if it has none.
        self.name = ""
        self._name_priority: int | None = None
        #: Whether a client asked for verbose logging.
        self.verbose = False
        #: The result of the root's attempt; None before, and after a failure.
        self.allocation: Allocation | None = None
        #: The buffers, once they are allocated.
        self.buffers: Buffers | None = None
        #: The finished attempts: the root's, then the last ones of attached subtrees.
        self.attempts: list[Attempt] = []
        #: Called with each finished attempt.
        self.on_attempt: Callable[[CollectionData, Attempt], None] = lambda *_: None
        #: Whether the report of a refusal is needed.
        self.wants_reports = False
        #: Why the root failed, or is about to; None before.
        self.failure: Failure | None = None
        #: Told that the root fails, before any client is.
        self.on_failure: Callable[[CollectionData], None] = lambda _: None
        #: Whether an attempt or a change is in progress. No message to a node may be processed meanwhile.
        self.busy = False
        #: Whether the tree is being changed. Nothing else may be done with it meanwhile.
        self.is_changing = False
        #: Whether the root has failed, so that no node is left.
        self.is_gone = False
        self.census = Census()
        self._last_node_number = 0

    def __repr__(self) -> str:
        return f"<LogicalBufferCollection {self.id} {self.name!r}>"

    @property
    def is_allocated(self) -> bool:
        """Whether the buffers were allocated."""
        return self.allocation is not None

    @property
    def last_attempt(self) -> Attempt | None:
        """The last attempt that finished, the root's or an attached subtree's."""
        return self.attempts[-1] if self.attempts else None

    def add_attempt(self, attempt: Attempt) -> None:
        """Keep a finished attempt, and drop an old one if there are too many."""
        self.attempts.append(attempt)
        self.on_attempt(self, attempt)
        if len(self.attempts) > MAX_ATTEMPTS:
            del self.attempts[1]

    def begin_failure(self, failure: Failure) -> None:
        """Take note of why the root fails, before any client is told. The first reason counts."""
        if self.failure is None:
            self.failure = failure
            self.on_failure(self)

    def next_node_number(self) -> int:
        """Return the number of a new node: 1, 2, 3, …"""
        self._last_node_number += 1
        return self._last_node_number

    def offer_name(self, priority: int, name: str) -> None:
        """Set the name if its priority is greater than all earlier ones. The name is cut at its first NUL."""
        if self._name_priority is None or priority > self._name_priority:
            self._name_priority = priority
            self.name = name.partition("\0")[0]

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Block all other access to the tree within the block, which may give way to other work."""
        before = self.busy, self.is_changing
        self.busy = self.is_changing = True
        try:
            yield
        finally:
            self.busy, self.is_changing = before

    @abstractmethod
    def when_idle(self, callback: Callable[[], None]) -> None:
        """Call `callback` once, when the collection is not busy: now or later."""

    @abstractmethod
    def settle(self) -> None:
        """Do everything that the last event made possible, until nothing changes."""

    @abstractmethod
    def move_warning(self, deadline: int) -> None:
        """Set the time of the first warning that allocation is taking a while (monotonic, ns)."""

    @abstractmethod
    def participants_changed(self) -> None:
        """Register that a participant with buffers has left the tree or has a new name."""

    @abstractmethod
    def say(self, level: Level, event: str, node: NodeData | None = None, **fields: Any) -> None:
        """Log one entry about the collection, or one of its nodes."""

    @abstractmethod
    def end(self) -> None:
        """Register that the root has left the tree, after all other nodes."""
