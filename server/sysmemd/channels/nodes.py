"""The servers of tokens, collections and groups: each request is a method call on the node in the tree.

The tree defines the meaning of requests, and when they are allowed. This module only adds what the tree does not know:
descriptors, channel names, and calls that are answered later.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar, TypeVar

from sysmem_protocol import sysmem2
from sysmem_protocol.handles import Handle, channel_ends
from sysmem_protocol.kinds import describe
from sysmem_protocol.library import Interface
from sysmem_protocol.sysmem2 import Error, Rights

from ..ends import every
from ..memory import Event
from ..pause import Holder, give_way, wait_while
from ..ports import ClientInfo, Peer
from ..quota import Exceeded, Kind
from ..tree import Cause, Node, NodeChannel, NotInCollection
from ..users import Account, Charge
from . import reasons
from .connection import Connection
from .errors import Failed
from .node_refs import is_event
from .reasons import Reason
from .service import Party, Service

S = TypeVar("S", bound="NodeServer")


class NodeServer:
    """The common part of the three kinds: the interface `Node`, and the node's channel as the tree uses it."""

    interface: ClassVar[type[Interface]] = sysmem2.Node

    def __init__(
        self, service: Service, server_end: Handle, account: Account, *, explained: bool
    ) -> None:
        """Take ownership of `server_end`. The caller must call :meth:`serve` before any message is processed.

        `account` is charged for the node. `explained` is whether its client requested reasons. Raises :class:`Refused`
        if the server end cannot be bound to a name.
        """
        self._service = service
        self.account = account
        self.koid, channel = service.names.give(server_end)
        self.node: Node
        self.party: Party
        #: The number of the connection whose message created the node.
        self.made_by = 0
        self._peer: Peer | None = None
        self._reported = False
        self.connection: Connection = service.connect(channel, self, account)
        self.connection.explained = explained

    @property
    def node_or_none(self) -> Node | None:
        """The node; None before :meth:`serve`."""
        return getattr(self, "node", None)

    def serve(self, node: Node) -> None:
        """Begin to serve a node."""
        self.node = node
        self.party = self._service.parties[node.collection.id]
        self.party.uids.add(self.account.user.uid)
        node.collection.wants_reports |= self.connection.explained
        if self._service.tracer.active:
            self._service.tracer.served(self.connection, self.made_by)
        if self.connection.on_served is not None:
            self.connection.on_served()

    def discard(self, reason: str) -> None:
        """Close the channel, because the node was not created after all."""
        self.connection.explain(None, reason)
        self.connection.close()

    @property
    def peer(self) -> Peer:
        """The process that created the channel, or that requested it from the daemon, as the kernel reports it."""
        if self._peer is None:
            try:
                self._peer = self.connection.peer()
            except OSError:  # the channel is already closed
                self._peer = self.account.peer
        return self._peer

    @peer.setter
    def peer(self, peer: Peer) -> None:
        self._peer = peer

    def explain(self, reason: Reason) -> None:
        """Send the reason for an error response, or for the end of the channel, if the client asked for it.

        A report is sent only once.
        """
        if self._reported:
            reason = replace(reason, report=None)
        self._reported |= reason.report is not None
        self._service.explain(self.connection, reason)

    def child(self, kind: type[S], server_end: Handle) -> S:
        """Create the server of a child with the same account. Raises :class:`Refused`."""
        explained = self.connection.explained
        child = kind(self._service, server_end, self.account, explained=explained)
        child.made_by = self.connection.number
        return child

    def _may_name_others(self) -> bool:
        return self._service.may_name_others(self.node, self.account)

    # --- interface for the connection ---

    def about(self) -> dict[str, Any]:
        return {
            "channel": self.interface.__name__,
            "koid": self.koid,
            "collection_id": self.node.collection.id,
            "client_name": self.node.client.name,
            "client_id": self.node.client.id,
        }

    def held_by(self) -> Holder | None:
        """Return the collection during its allocation attempt, when no client may see a partial result."""
        collection = self.node.collection
        return collection if collection.busy else None

    def changed_by(self) -> Holder | None:
        """Return the collection while its tree is being changed."""
        collection = self.node.collection
        return collection if collection.is_changing else None

    def expect_message(self) -> None:
        self.node.expect_message()

    def refuse(self, reason: str) -> None:
        self.node.fail(reason)

    def failed(self, reason: str) -> None:
        self.node.fail(reason, Cause.BROKEN)

    def exceeded(self, error: Exceeded) -> None:
        self.node.fail(str(error), Cause.LIMIT)

    def peer_closed(self) -> None:
        self.node.client_closed()

    # --- interface for the tree ---

    def allocated(self) -> None:
        """Do nothing: only collections have calls that wait for the allocation."""

    def close(self) -> None:
        """Close, because the node has left the tree, or its client closed it after Release."""
        every((self._explain_end, self.connection.finish))

    def _explain_end(self) -> None:
        failure = self.node.failure
        if failure is None:
            self._peer = self.peer  # keep it for inspection of the orphan
        elif self.connection.explained:
            names = self._may_name_others()
            self.explain(reasons.of_failure(failure, self.node, names=names))
        if self._service.tracer.active:
            self._service.tracer.left(self.connection, self)

    # --- Node ---

    def sync(self) -> None:
        pass

    def release(self) -> None:
        self.node.release()
        self.connection.shutdown_sending()

    def set_name(self, request: sysmem2.NodeSetNameRequest) -> None:
        assert request.priority is not None
        assert request.name is not None
        self.node.set_name(request.priority, request.name)

    def set_debug_client_info(self, request: sysmem2.SetDebugClientInfoRequest) -> None:
        self.node.set_debug_client_info(client_info(request))

    def set_debug_timeout_log_deadline(
        self, request: sysmem2.NodeSetDebugTimeoutLogDeadlineRequest
    ) -> None:
        assert request.deadline is not None
        self.node.set_debug_timeout_log_deadline(request.deadline)

    def set_verbose_logging(self) -> None:
        self.node.set_verbose_logging()

    def get_node_ref(self) -> sysmem2.NodeGetNodeRefResponse:
        return sysmem2.NodeGetNodeRefResponse(
            node_ref=self._service.node_refs.of(self.node, self.account)
        )

    def is_alternate_for(
        self, request: sysmem2.NodeIsAlternateForRequest
    ) -> sysmem2.NodeIsAlternateForResponse:
        assert request.node_ref is not None
        other = self._service.node_refs.node(request.node_ref)
        if other is None:
            if is_event(request.node_ref):
                raise Failed(Error.NOT_FOUND, "$.node_ref does not refer to a node in a tree")
            wrong = describe(request.node_ref.fileno())
            raise Failed(Error.PROTOCOL_DEVIATION, f"$.node_ref must be an event, not {wrong}")
        try:
            return sysmem2.NodeIsAlternateForResponse(
                is_alternate=self.node.is_alternate_for(other)
            )
        except NotInCollection as error:
            raise Failed(Error.NOT_FOUND, f"$.node_ref: {error}") from None

    def get_buffer_collection_id(self) -> sysmem2.NodeGetBufferCollectionIdResponse:
        return sysmem2.NodeGetBufferCollectionIdResponse(
            buffer_collection_id=self.node.collection.id
        )

    def set_weak(self) -> None:
        self.node.set_weak()

    def set_weak_ok(self, request: sysmem2.NodeSetWeakOkRequest) -> None:
        self.node.set_weak_ok(bool(request.for_child_nodes_also))

    def attach_node_tracking(self, request: sysmem2.NodeAttachNodeTrackingRequest) -> None:
        self.node.attach_node_tracking(self._event(request.server_end))

    def _event(self, server_end: Handle | None) -> Event:
        """Return the event for a server end. It drops everything that the client sends through it."""
        assert server_end is not None
        closing = self._service.closing
        with ExitStack() as undo:
            charge = self.account.charge(Kind.TRACKINGS)
            undo.callback(charge.close)
            closing.stop_receiving(server_end.fileno())
            handle = Handle(server_end.take(), closing.close_end)
            event = self._service.memory.event(handle, charge.close)
            undo.pop_all()
        return event


class TokenServer(NodeServer):
    """The server of a token, which is also the parent of its duplicates."""

    interface = sysmem2.BufferCollectionToken

    def __init__(
        self, service: Service, server_end: Handle, account: Account, *, explained: bool
    ) -> None:
        super().__init__(service, server_end, account, explained=explained)
        service.tokens[self.koid] = self
        self.watchers: set[Callable[[], None]] = set()

    def close(self) -> None:
        every((self._forget, super().close))

    def discard(self, reason: str) -> None:
        self._forget()
        super().discard(reason)

    def _forget(self) -> None:
        self._service.tokens.pop(self.koid, None)
        watchers, self.watchers = self.watchers, set()
        every(watchers)

    def turn_in(self, channel: NodeChannel, client: ClientInfo | None, client_end: Handle) -> Node:
        """See :class:`.Token`."""
        self.node.bind(channel, client)
        self._forget()
        self.connection.finish(client_end)
        return self.node

    def duplicate_sync(self, request: sysmem2.CreateTokensRequest) -> sysmem2.CreateTokensResponse:
        assert request.rights_attenuation_masks is not None
        return _create_tokens(self, request.rights_attenuation_masks, self.node.duplicate_sync)

    def duplicate(self, request: sysmem2.BufferCollectionTokenDuplicateRequest) -> None:
        assert request.token_request is not None
        assert request.rights_attenuation_mask is not None
        child = self.child(TokenServer, request.token_request)
        adopt(child, partial(self.node.duplicate, child, request.rights_attenuation_mask))

    def set_dispensable(self) -> None:
        self.node.set_dispensable()

    def create_buffer_collection_token_group(
        self, request: sysmem2.BufferCollectionTokenCreateBufferCollectionTokenGroupRequest
    ) -> None:
        assert request.group_request is not None
        child = self.child(GroupServer, request.group_request)
        adopt(child, partial(self.node.create_group, child))


class GroupServer(NodeServer):
    """The server of a group."""

    interface = sysmem2.BufferCollectionTokenGroup

    def create_child(self, request: sysmem2.BufferCollectionTokenGroupCreateChildRequest) -> None:
        assert request.token_request is not None
        mask = request.rights_attenuation_mask
        if mask is None:
            mask = Rights.SAME_RIGHTS
        child = self.child(TokenServer, request.token_request)
        adopt(child, partial(self.node.create_child, child, mask))

    def create_children_sync(
        self, request: sysmem2.CreateTokensRequest
    ) -> sysmem2.CreateTokensResponse:
        assert request.rights_attenuation_masks is not None
        return _create_tokens(
            self, request.rights_attenuation_masks, self.node.create_children_sync
        )

    def all_children_present(self) -> None:
        self.node.all_children_present()


# --- helpers ------------------------------------------------------------------------------------------------------


def client_info(request: sysmem2.SetDebugClientInfoRequest) -> ClientInfo:
    """Return the name and id that a client sent. An un-set id is 0."""
    return ClientInfo(request.name or "", request.id or 0)


def adopt(child: NodeServer, make: Callable[[], Node]) -> None:
    """Let the tree create the node of a new server, charged to that server's account, or discard the server."""
    with ExitStack() as undo:
        undo.push(partial(discard, [child]))
        charge = child.account.charge(Kind.NODES)
        undo.callback(charge.close)
        node = make()
        undo.pop_all()
    node.charge = charge
    child.serve(node)


def _create_tokens(
    parent: NodeServer,
    masks: Sequence[int],
    make: Callable[[Sequence[NodeChannel], Sequence[int]], list[Node]],
) -> sysmem2.CreateTokensResponse:
    """Create a token for each mask, and return their client ends. If one fails, none is created."""
    client_ends: list[Handle] = []
    children: list[TokenServer] = []
    charges: list[Charge] = []
    with ExitStack() as undo:
        undo.push(partial(discard, children))
        for _ in masks:
            charges.append(parent.account.charge(Kind.NODES))
            undo.callback(charges[-1].close)
            client_end, server_end = channel_ends()
            client_ends.append(undo.enter_context(client_end))
            with server_end:
                children.append(parent.child(TokenServer, server_end))
            give_way()
        wait_while(parent.changed_by)  # others may have gone on with the tree
        nodes = make(children, masks)
        undo.pop_all()
    for child, node, charge in zip(children, nodes, charges, strict=True):
        node.charge = charge
        child.peer = parent.peer
        child.serve(node)
    return sysmem2.CreateTokensResponse(tokens=client_ends)


def discard(children: Sequence[NodeServer], kind: object, error: object, trace: object) -> None:
    """Discard servers whose nodes were not created because of an error. Used as an exit callback."""
    for child in children:
        child.discard(str(error))
