"""Tokens, collections and groups: the client ends of the nodes in a collection's tree."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from sysmem_protocol import sysmem2 as m
from sysmem_protocol.library import Method

from .._buffers import BufferCollectionInfo
from .._handles import NodeRef
from .._sharing import moves
from .._timeouts import deadline, remaining
from .._vmo import Vmo, borrowed
from . import passing
from .channel_object import ChannelObject, check_client_end
from .events import AsyncEventPair

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike, ReadableBuffer


class Node(ChannelObject):
    """The base class of tokens, collections and groups: the client end of one node.

    A node that is closed without `release()` fails, and all nodes of its failure domain fail with it.
    """

    __slots__ = ()
    _interface = m.Node

    async def sync(self, *, timeout: float | None = None) -> None:
        """Wait until the daemon has processed all messages that were sent on this channel.

        After that the daemon knows the tokens that were created through this channel, so they may be passed to other
        processes.

        Cancellation: nothing changes. Call it again to wait.
        """
        await self._call(m.Node.sync, None, timeout)

    async def release(self, *, timeout: float | None = None) -> None:
        """Send Release and close: this participant leaves, and nothing fails.

        Constraints that were set on the node still count. The object is closed afterwards, also if this raises
        `PeerClosedError`. It stays open if this raises `TimeoutError`: nothing was sent then.

        Cancellation: nothing was sent, and the object stays open.
        """
        await self._send_last(m.Node.release, timeout)

    async def set_name(self, priority: int, name: str, *, timeout: float | None = None) -> None:
        """Set the name of the collection. Buffers that are allocated later are called `<name>:<index>`.

        Tools such as `/proc` and `sysmemctl` show these names.

        Args:
            priority: A later name replaces an earlier one only if its priority is greater than every earlier one.
            name: At most 64 bytes of UTF-8.
            timeout: Seconds until `TimeoutError`.
        """
        await self._send(
            m.Node.set_name, m.NodeSetNameRequest(priority=priority, name=name), timeout
        )

    async def set_debug_client_info(
        self, name: str, id: int | None = None, *, timeout: float | None = None
    ) -> None:
        """Set the name and number of this node's client in logs and reports. Children created later inherit them.

        Args:
            name: At most 256 bytes of UTF-8.
            id: A number, usually the pid. Un-set is 0.
            timeout: Seconds until `TimeoutError`.
        """
        await self._send(
            m.Node.set_debug_client_info, m.SetDebugClientInfoRequest(name=name, id=id), timeout
        )

    async def set_debug_timeout_log_deadline(
        self, deadline: int, *, timeout: float | None = None
    ) -> None:
        """Set the time of the daemon's first warning that the allocation is taking a while.

        Args:
            deadline: Nanoseconds of CLOCK_MONOTONIC (`time.monotonic_ns()`). By default the warning comes 5 s after the
                collection was created.
            timeout: Seconds until `TimeoutError`.
        """
        await self._send(
            m.Node.set_debug_timeout_log_deadline,
            m.NodeSetDebugTimeoutLogDeadlineRequest(deadline=deadline),
            timeout,
        )

    async def set_verbose_logging(self, *, timeout: float | None = None) -> None:
        """Make the daemon log the constraints, the tree and the results of this collection from now on."""
        await self._send(m.Node.set_verbose_logging, None, timeout)

    async def get_node_ref(self, *, timeout: float | None = None) -> NodeRef:
        """Return a proof of this node's identity, for `is_alternate_for` on another node. The caller closes it.

        Cancellation: nothing changes. A proof that comes later is closed.
        """
        answer = await self._call(m.Node.get_node_ref, None, timeout)
        return self._field(answer, "node_ref", NodeRef)

    async def is_alternate_for(
        self, node_ref: NodeRef | int, *, timeout: float | None = None
    ) -> bool:
        """Return whether this node and another one are below different children of the same group.

        If they are, at most one of them takes part in the allocation.

        Args:
            node_ref: The other node's `get_node_ref()`, or its descriptor. It stays the caller's.
            timeout: Seconds until `TimeoutError`.

        Raises:
            SysmemError: NOT_FOUND if the node is of another collection, or has left the tree.
        """
        with borrowed(node_ref, NodeRef) as handle:
            answer = await self._call(
                m.Node.is_alternate_for, m.NodeIsAlternateForRequest(node_ref=handle), timeout
            )
        return self._field(answer, "is_alternate", bool)

    async def get_buffer_collection_id(self, *, timeout: float | None = None) -> int:
        """Return the id of the collection. No other collection has it until the machine is booted again."""
        answer = await self._call(m.Node.get_buffer_collection_id, None, timeout)
        return self._field(answer, "buffer_collection_id", int)

    async def set_weak(self, *, timeout: float | None = None) -> None:
        """Make this node and children created later weak: they get buffers, but do not keep them alive.

        Call it on a token before it is bound or released, on a collection before `set_constraints`, and on a group
        before `all_children_present`. Otherwise the node fails.
        """
        await self._send(m.Node.set_weak, None, timeout)

    async def set_weak_ok(
        self, for_child_nodes_also: bool | None = None, *, timeout: float | None = None
    ) -> None:
        """State that this client watches `close_weak_asap` of its buffers, and closes a buffer soon after the event.

        A weak collection must do this before `wait_for_all_buffers_allocated`, unless `set_weak` was called on this
        node itself, or an ancestor did it with `for_child_nodes_also`.

        Args:
            for_child_nodes_also: Whether the statement also holds for all nodes that are created below this one later.
            timeout: Seconds until `TimeoutError`.
        """
        await self._send(
            m.Node.set_weak_ok,
            m.NodeSetWeakOkRequest(for_child_nodes_also=for_child_nodes_also),
            timeout,
        )

    async def attach_node_tracking(self, *, timeout: float | None = None) -> AsyncEventPair:
        """Return an event that closes when this node and all its children have left the tree.

        The buffers that were counted for them are then free for others. A node can have at most 256 such events. The
        caller closes the event.

        Cancellation: nothing was sent, and no event exists.
        """
        return await self._open(AsyncEventPair, m.Node.attach_node_tracking, timeout)

    async def _create_tokens(
        self, method: Method, masks: Sequence[m.Rights | int], timeout: float | None
    ) -> list[BufferCollectionToken]:
        answer = await self._call(
            method, m.CreateTokensRequest(rights_attenuation_masks=list(masks)), timeout
        )
        ends = self._field(answer, "tokens", list)
        tokens: list[BufferCollectionToken] = []
        try:
            for end in ends:
                tokens.append(BufferCollectionToken._of(end))
        except BaseException:
            for token in tokens:
                token.close()
            raise
        finally:
            for end in ends:
                end.close()
        return tokens


class BufferCollectionToken(Node):
    """A place in a collection. A participant turns it in with `bind_shared_collection`.

    There are three ways to pass it to another process: `send()` and `receive()` over a Unix socket; `offer()` and
    `take()` of the Allocator; and `detach()` here and `from_fd()` there, if you pass the descriptor yourself.
    """

    __slots__ = ("_came_from_elsewhere",)
    _interface = m.BufferCollectionToken
    _instead = "send(), or detach() and from_fd(), give it to another process"

    def __init__(self, owned: int | socket.SocketType) -> None:
        super().__init__(owned)
        self._came_from_elsewhere = False

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Return a token that owns a descriptor from another process. See :meth:`Node.from_fd`."""
        token = super().from_fd(fd)
        token._came_from_elsewhere = True
        return token

    async def send(
        self,
        sock: FileDescriptorLike,
        data: ReadableBuffer = b"\0",
        *,
        timeout: float | None = None,
    ) -> None:
        """Send this token over a connected Unix socket. The process at the other end calls :meth:`receive`.

        The token moves: it is closed here, as after `detach()`, unless this raises. If the daemon does not know the
        token yet, this syncs first.

        The socket stays the caller's. It may be of any type (stream, seqpacket, datagram) and from any library:
        anything with a `fileno()`, or the descriptor itself. This also waits if the socket is non-blocking. A program
        that receives with `socket.recv_fds` gets one descriptor, for `from_fd()`, and the data.

        Cancellation: nothing was sent.

        Args:
            sock: The socket.
            data: Data for the application, 1 byte to 32 KiB. On a stream socket the receiver gets bytes that were sent
                earlier and not read yet in front of it.
            timeout: Seconds until `TimeoutError`. Nothing was sent then.

        Raises:
            BrokenPipeError: The other end of the socket is closed.
            OSError: The kernel refuses, for example because the socket is not connected.
            PeerClosedError: The token has failed.
            TypeError, ValueError: `sock` is not a Unix socket, or `data` can't be sent.
        """
        end = deadline(timeout)
        await self._settle(remaining(end))
        with borrowed(self.fileno()) as client_end:
            assert client_end is not None
            handles = [client_end]
            try:
                await passing.send(sock, data, handles, end)
            finally:
                if not handles:
                    self.close()

    @classmethod
    async def receive(
        cls, sock: FileDescriptorLike, *, timeout: float | None = None
    ) -> tuple[Self, bytes]:
        """Receive a token, and the data that came with it, over a connected Unix socket.

        The caller closes the token or turns it in. The socket is as for :meth:`send`; a token that was sent with
        `socket.send_fds` arrives too. A datagram socket does not report that its other end is closed, so use a timeout
        with one.

        Cancellation: nothing is lost; the next call receives the token.

        Args:
            sock: The socket.
            timeout: Seconds until `TimeoutError`. The next call receives what comes later.

        Raises:
            EOFError: The other end of the socket is closed, and everything that it sent has been received.
            ValueError: The message has no descriptor, several, or one that is not a token. They are closed, and the
                socket can still be used. Or `sock` is not a Unix socket.
            OSError: The kernel refuses: no descriptor is left (EMFILE; the token is lost), or the socket is not
                connected.
        """
        handle, data = await passing.receive(sock, deadline(timeout))
        with handle:
            check_client_end(handle.fileno())
            token = cls._of(handle)
        token._came_from_elsewhere = True
        return token, data

    async def _settle(self, timeout: float | None) -> None:
        """Sync, unless the daemon knows this token and no late response can reach its next owner."""
        if not self._is_settled():
            await self.sync(timeout=timeout)

    def _is_settled(self) -> bool:
        return super()._is_settled() and bool(self._came_from_elsewhere or self.server_koid)

    async def duplicate(
        self,
        rights_attenuation_mask: m.Rights | int = m.Rights.SAME_RIGHTS,
        *,
        timeout: float | None = None,
    ) -> BufferCollectionToken:
        """Create a child token. The rights of its participant are this token's, limited by the mask.

        It can be used at once in this process. Call `sync()` before you pass it to a process that turns it in through
        another Allocator.

        Cancellation: nothing was sent, and no child exists.

        Args:
            rights_attenuation_mask: The rights that the child's participant keeps of this token's, for example
                `~Rights.WRITE`. By default it keeps all of them. 0 means the same, but is deprecated.
            timeout: Seconds until `TimeoutError`. Nothing was sent then.
        """
        return await self._open(
            BufferCollectionToken,
            m.BufferCollectionToken.duplicate,
            timeout,
            rights_attenuation_mask=rights_attenuation_mask,
        )

    async def duplicate_sync(
        self,
        rights_attenuation_masks: Sequence[m.Rights | int],
        *,
        timeout: float | None = None,
    ) -> list[BufferCollectionToken]:
        """Create one child token for each mask (at most 64) and return them in the same order.

        The daemon already knows them, so no `sync()` is needed.

        After a `TimeoutError` the daemon may have created the tokens. They are closed at the next call on this object,
        or when it is closed. That fails them, and this node with them. To wait for a limited time without this risk,
        call `duplicate()` for each token, and then `sync()`.

        Cancellation: as after a `TimeoutError`, if the request was sent.

        Args:
            rights_attenuation_masks: For each token, the rights that its participant keeps of this token's:
                `Rights.SAME_RIGHTS` for all of them. A mask of 0 fails this node.
            timeout: Seconds until `TimeoutError`.
        """
        return await self._create_tokens(
            m.BufferCollectionToken.duplicate_sync, rights_attenuation_masks, timeout
        )

    async def set_dispensable(self, *, timeout: float | None = None) -> None:
        """Make the failure of this node stop here once the buffers are allocated.

        Before that its failure still reaches its parent.
        """
        await self._send(m.BufferCollectionToken.set_dispensable, None, timeout)

    async def create_buffer_collection_token_group(
        self, *, timeout: float | None = None
    ) -> BufferCollectionTokenGroup:
        """Create a group as a child. Exactly one of the group's own children takes part in the allocation.

        Cancellation: nothing was sent, and no group exists.
        """
        return await self._open(
            BufferCollectionTokenGroup,
            m.BufferCollectionToken.create_buffer_collection_token_group,
            timeout,
        )


class BufferCollection(Node):
    """A participant: its client end to set constraints and to get the buffers."""

    __slots__ = ()
    _interface = m.BufferCollection

    async def set_constraints(
        self,
        constraints: m.BufferCollectionConstraints | None = None,
        *,
        must_match_vmo: Vmo | int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Set what this participant needs. This is possible once.

        Cancellation: nothing was sent, so this call is still possible.

        Args:
            constraints: The needs. Without them the participant uses nothing, constrains nothing and gets no VMOs.
            must_match_vmo: A buffer of any collection. The result must have the settings of that collection. It stays
                the caller's.
            timeout: Seconds until `TimeoutError`. Nothing was sent then, so this call is still possible.
        """
        with borrowed(must_match_vmo, Vmo) as vmo:
            await self._send(
                m.BufferCollection.set_constraints,
                m.BufferCollectionSetConstraintsRequest(
                    constraints=constraints, must_match_vmo=vmo
                ),
                timeout,
            )

    async def wait_for_all_buffers_allocated(
        self, *, timeout: float | None = None
    ) -> BufferCollectionInfo:
        """Wait until the buffers are allocated, and return them. The caller closes the result.

        It may be called again, also after a `TimeoutError`; each result has descriptors of its own.

        Cancellation: nothing is lost. The next call goes on waiting for the same response, or gets one of its own.

        Raises:
            SysmemError: The allocation failed. `reason` says why, `report` has the whole table.
            PeerClosedError: The node failed for another reason, a group chose another child, or the refusal came before
                this call. `reason` says which.
        """
        answer = await self._call(m.BufferCollection.wait_for_all_buffers_allocated, None, timeout)
        return self._field(answer, "buffer_collection_info", BufferCollectionInfo)

    async def check_all_buffers_allocated(self, *, timeout: float | None = None) -> None:
        """Return if the buffers are allocated.

        Raises:
            SysmemError: PENDING if the allocation was not attempted yet; the allocation's error if it failed.
        """
        await self._call(m.BufferCollection.check_all_buffers_allocated, None, timeout)

    async def attach_token(
        self,
        rights_attenuation_mask: m.Rights | int = m.Rights.SAME_RIGHTS,
        *,
        timeout: float | None = None,
    ) -> BufferCollectionToken:
        """Create a child token for a participant that joins later, before or after the allocation.

        The collection does not wait for it, and its failure does not reach this node. It gets the existing buffers if
        they suit it. Call `sync()` before you pass it on other than by `send()` and `offer()`.

        Cancellation: nothing was sent, and no token exists.

        Args:
            rights_attenuation_mask: The rights that the new participant keeps of this one's, for example
                `~Rights.WRITE`. By default it keeps all of them. 0 fails this node.
            timeout: Seconds until `TimeoutError`. Nothing was sent then.
        """
        return await self._open(
            BufferCollectionToken,
            m.BufferCollection.attach_token,
            timeout,
            rights_attenuation_mask=rights_attenuation_mask,
        )

    async def attach_lifetime_tracking(
        self, buffers_remaining: int = 0, *, timeout: float | None = None
    ) -> AsyncEventPair:
        """Return an event that closes when at most `buffers_remaining` of the collection's buffers still exist.

        A buffer exists until every handle to it and every mapping of it is gone, in every process. The event also works
        after this node has left. The caller closes it.

        Cancellation: nothing was sent, and no event exists.
        """
        return await self._open(
            AsyncEventPair,
            m.BufferCollection.attach_lifetime_tracking,
            timeout,
            buffers_remaining=buffers_remaining,
        )


class BufferCollectionTokenGroup(Node):
    """A choice between child tokens, in order of preference. Exactly one takes part in an allocation."""

    __slots__ = ()
    _interface = m.BufferCollectionTokenGroup

    async def create_child(
        self,
        rights_attenuation_mask: m.Rights | int | None = None,
        *,
        timeout: float | None = None,
    ) -> BufferCollectionToken:
        """Create a child token, which is tried after the earlier ones.

        Cancellation: nothing was sent, and no child exists.

        Args:
            rights_attenuation_mask: The rights that the child's participant keeps of the group's, for example
                `~Rights.WRITE`. By default it keeps all of them. 0 fails the group.
            timeout: Seconds until `TimeoutError`. Nothing was sent then.
        """
        return await self._open(
            BufferCollectionToken,
            m.BufferCollectionTokenGroup.create_child,
            timeout,
            rights_attenuation_mask=rights_attenuation_mask,
        )

    async def create_children_sync(
        self,
        rights_attenuation_masks: Sequence[m.Rights | int],
        *,
        timeout: float | None = None,
    ) -> list[BufferCollectionToken]:
        """Create one child token for each mask (at most 64) and return them in the same order.

        The daemon already knows them, so no `sync()` is needed.

        After a `TimeoutError` the daemon may have created the tokens. They are closed at the next call on this object,
        or when it is closed. That fails them, and this node with them. To wait for a limited time without this risk,
        call `create_child()` for each token, and then `sync()`.

        Cancellation: as after a `TimeoutError`, if the request was sent.

        Args:
            rights_attenuation_masks: For each token, the rights that its participant keeps of the group's:
                `Rights.SAME_RIGHTS` for all of them. A mask of 0 fails this node.
            timeout: Seconds until `TimeoutError`.
        """
        return await self._create_tokens(
            m.BufferCollectionTokenGroup.create_children_sync, rights_attenuation_masks, timeout
        )

    async def all_children_present(self, *, timeout: float | None = None) -> None:
        """State that the group has all its children. The collection is not allocated before.

        Cancellation: nothing was sent, so this call is still possible.
        """
        await self._send(m.BufferCollectionTokenGroup.all_children_present, None, timeout)


moves(BufferCollectionToken, BufferCollection, BufferCollectionTokenGroup)
