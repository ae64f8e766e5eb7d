"""A node: one place in the tree, and the messages that it accepts.

Every message is a method. A method first checks, then changes the node, then lets the collection settle: fail the
domains without a connected client, and attempt what has become ready. A method refuses a message by raising `Misuse`
before anything has changed. The caller then calls :meth:`Node.fail`. The tree takes ownership of events that are passed
to a method, even if it raises: then they are closed.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from sysmem_protocol.sysmem2 import BufferCollectionConstraints, Error, SingleBufferSettings

from ..explaining import listing
from ..ports import ClientInfo, Signal
from ..text import Block
from . import census
from .client_names import attached_to, renamed
from .data import Cause, CollectionData, NodeData
from .failure import fail
from .outcome import Allocated
from .ports import Level, Misuse, NodeChannel, NotInCollection
from .rights import ALL_RIGHTS, attenuated
from .state import DISPENSABLE, Event, Isolation, NodeKind, State, step
from .trackings import closed_if_refused
from .walk import nearest_common_ancestor


class Node(NodeData):
    """One place in the tree of a collection: a token, a collection or a group.

    Only :class:`LogicalBufferCollection` (for the root) and other nodes create nodes. A node that has failed stays an
    object but has left the tree. Only :meth:`fail` and :meth:`client_closed` may still be called on it, without effect.
    """

    __slots__ = ()

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
        super().__init__(
            collection,
            channel,
            client,
            parent=parent,
            kind=kind,
            rights_mask=rights_mask,
            isolation=isolation,
        )
        census.entered(self)

    # --- messages to any node ----------------------------------------------------------------------------------------

    def expect_message(self) -> None:
        """Check that the node accepts messages. Any message after Release is misuse."""
        step(self.state, Event.MESSAGE)

    def set_name(self, priority: int, name: str) -> None:
        """SetName: name the collection, unless an earlier name had the same or a greater priority."""
        self.expect_message()
        self.collection.offer_name(priority, name)

    def set_debug_client_info(self, client: ClientInfo) -> None:
        """SetDebugClientInfo: name the client. The previous name stays visible as `new (was old)`."""
        self.expect_message()
        self.client = renamed(self.client, client)
        self._participants = None
        if self.has_allocated:
            self.collection.participants_changed()

    def set_debug_timeout_log_deadline(self, deadline: int) -> None:
        """SetDebugTimeoutLogDeadline: set the time of the first warning (monotonic, ns)."""
        self.expect_message()
        self.collection.move_warning(deadline)

    def set_verbose_logging(self) -> None:
        """SetVerboseLogging: log details of the whole collection from now on."""
        self.expect_message()
        self.collection.verbose = True

    def is_alternate_for(self, other: NodeData) -> bool:
        """IsAlternateFor: return whether the nearest common ancestor is a group, so that at most one node is selected.

        Raises :class:`NotInCollection` for a node of another collection or one that has left the tree.
        """
        self.expect_message()
        if other.collection is not self.collection or not other.in_tree:
            raise NotInCollection(f"{other!r} is not in collection {self.collection.id}")
        return nearest_common_ancestor(self, other).kind is NodeKind.GROUP

    def set_weak(self) -> None:
        """SetWeak: make this node and children created later weak. Implies SetWeakOk for this node."""
        step(self.state, Event.SET_WEAK)
        self._weak_ok = True
        if not self.is_weak:
            self.is_weak = True
            census.weakened(self)
            self.collection.settle()

    def set_weak_ok(self, for_child_nodes_also: bool = False) -> None:
        """SetWeakOk: note that the client watches `close_weak_asap`, for this node or also for later children."""
        step(self.state, Event.SET_WEAK_OK)
        self._weak_ok = True
        self._weak_ok_for_children |= for_child_nodes_also

    def attach_node_tracking(self, event: Signal) -> None:
        """AttachNodeTracking: close `event` when this node and all its descendants have left the tree."""
        with closed_if_refused(event):
            self.expect_message()
            self._trackings.add(event)

    # --- messages to a token ------------------------------------------------------------------------------------------

    def duplicate(self, channel: NodeChannel, mask: int) -> Node:
        """Duplicate: create a child token. The deprecated mask 0 attenuates nothing and is logged as an error."""
        step(self.state, Event.CREATE_TOKEN)
        if mask == 0:
            self.say(Level.ERROR, "Duplicate with rights_attenuation_mask 0, which is deprecated")
            mask = ALL_RIGHTS
        return self._create_token(channel, mask)

    def duplicate_sync(self, channels: Sequence[NodeChannel], masks: Sequence[int]) -> list[Node]:
        """DuplicateSync: create a child token for each mask, in order; all of them, or none if it is refused."""
        step(self.state, Event.CREATE_TOKEN)
        return self._create_tokens(channels, masks, "DuplicateSync")

    def create_group(self, channel: NodeChannel) -> Node:
        """CreateBufferCollectionTokenGroup: create a child group."""
        step(self.state, Event.CREATE_GROUP)
        return Node(
            self.collection,
            channel,
            self.client,
            parent=self,
            kind=NodeKind.GROUP,
            rights_mask=self.rights_mask,
        )

    def set_dispensable(self) -> None:
        """SetDispensable: after the allocation, this node's failure does not reach its parent."""
        step(self.state, Event.SET_DISPENSABLE)
        self.isolation = DISPENSABLE[self.isolation]

    def bind(self, channel: NodeChannel, client: ClientInfo | None) -> None:
        """BindSharedCollection: turn the token into a collection that is served on `channel`.

        The tree does not use the previous channel any more; the caller closes it. `client`, the Allocator's debug
        client info, replaces the token's if it is given.
        """
        census.step(self, Event.BIND)
        self.kind = NodeKind.COLLECTION
        self._channel = channel
        if client is not None:
            self.client = client

    # --- messages to a collection -------------------------------------------------------------------------------------

    def set_constraints(
        self,
        constraints: BufferCollectionConstraints | None,
        must_match: SingleBufferSettings | None,
    ) -> None:
        """SetConstraints: set this participant's constraints, once. None is an empty table.

        `must_match` are the settings of must_match_vmo. If the allocation was only waiting for these constraints, it is
        attempted before this returns.
        """
        census.step(self, Event.SET_CONSTRAINTS)
        self.constraints = constraints
        self.must_match = must_match
        self.has_constraints = True
        self._participants = None
        if self.collection.verbose:
            with self.collection.changing():
                self.say(
                    Level.INFO,
                    "constraints set",
                    constraints=Block(listing(constraints)),
                    must_match=Block(listing(must_match)),
                )
        self.collection.settle()

    def wait_for_all_buffers_allocated(self) -> None:
        """WaitForAllBuffersAllocated: check that the client may call it.

        The response is `outcome`: now if it is set, otherwise when the channel's `allocated()` is called.
        """
        step(self.state, Event.WAIT)
        if self.is_weak and not self._weak_ok:
            raise Misuse("WaitForAllBuffersAllocated on a weak collection without SetWeakOk")
        census.step(self, Event.WAIT)

    def check_all_buffers_allocated(self) -> Error | None:
        """CheckAllBuffersAllocated: return PENDING, the error of the allocation, or None if there are buffers."""
        step(self.state, Event.CHECK)
        if self.outcome is None:
            return Error.PENDING
        return None if isinstance(self.outcome, Allocated) else self.outcome

    def attach_token(self, channel: NodeChannel, mask: int) -> Node:
        """AttachToken: create a child token that is not part of this node's allocation and can't fail it."""
        step(self.state, Event.ATTACH_TOKEN)
        if self.is_weak:
            raise Misuse("AttachToken on a weak collection")
        _refuse_no_rights(mask, "AttachToken")
        return self._create_token(
            channel, mask, attached_to(self.client), Isolation.DO_NOT_PROPAGATE
        )

    def attach_lifetime_tracking(self, event: Signal, buffers_remaining: int) -> None:
        """AttachLifetimeTracking: close `event` when at most `buffers_remaining` of the buffers still exist."""
        with closed_if_refused(event):
            step(self.state, Event.ATTACH_LIFETIME_TRACKING)
        if isinstance(self.outcome, Allocated):
            self.outcome.buffers.track_lifetime(event, buffers_remaining)
        else:
            self._trackings.add_lifetime(event, buffers_remaining)

    # --- messages to a group ------------------------------------------------------------------------------------------

    def create_child(self, channel: NodeChannel, mask: int) -> Node:
        """CreateChild: create a child token, which is tried after the earlier ones. An un-set mask is SAME_RIGHTS."""
        step(self.state, Event.CREATE_CHILD)
        _refuse_no_rights(mask, "CreateChild")
        return self._create_token(channel, mask)

    def create_children_sync(
        self, channels: Sequence[NodeChannel], masks: Sequence[int]
    ) -> list[Node]:
        """CreateChildrenSync: create a child token for each mask, in order; all of them, or none if it is refused."""
        step(self.state, Event.CREATE_CHILD)
        return self._create_tokens(channels, masks, "CreateChildrenSync")

    def all_children_present(self) -> None:
        """AllChildrenPresent: make the group ready. This may start the allocation."""
        step(self.state, Event.ALL_CHILDREN_PRESENT)
        if not self.children:
            raise Misuse("AllChildrenPresent on a group without children")
        census.step(self, Event.ALL_CHILDREN_PRESENT)
        self.collection.settle()

    # --- the end of a node --------------------------------------------------------------------------------------------

    def release(self) -> None:
        """Release: the client end will close without a failure. It takes effect when the client end closes."""
        census.step(self, Event.RELEASE)

    def client_closed(self) -> None:
        """Handle the close of the client end: an orphan after Release, otherwise a failure."""
        if step(self.state, Event.CLOSE) is State.FAILED:
            if self.in_tree:
                fail(self, Cause.CLOSED)
        elif self.is_connected:
            census.step(self, Event.CLOSE)
            self._channel.close()
        self.collection.settle()

    def fail(self, reason: str, cause: Cause = Cause.MISUSE) -> None:
        """Fail the node, usually because its client broke the protocol. `reason` goes to the log."""
        if self.collection.is_changing:
            self.collection.when_idle(partial(self.fail, reason, cause))
            return
        if self.in_tree:
            fail(self, cause, reason)
        self.collection.settle()

    # --- internal -----------------------------------------------------------------------------------------------------

    def _create_tokens(
        self, channels: Sequence[NodeChannel], masks: Sequence[int], message: str
    ) -> list[Node]:
        for mask in masks:
            _refuse_no_rights(mask, message)
        return [
            self._create_token(channel, mask) for channel, mask in zip(channels, masks, strict=True)
        ]

    def _create_token(
        self,
        channel: NodeChannel,
        mask: int,
        client: ClientInfo | None = None,
        isolation: Isolation = Isolation.PROPAGATE,
    ) -> Node:
        return Node(
            self.collection,
            channel,
            client or self.client,
            parent=self,
            rights_mask=attenuated(self.rights_mask, mask),
            isolation=isolation,
        )


def _refuse_no_rights(mask: int, message: str) -> None:
    if mask == 0:
        raise Misuse(f"{message} with rights_attenuation_mask 0")
