"""Tokens, collections and groups: the nodes of a logical buffer collection's tree, as their clients use them."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self

from sysmem_protocol import sysmem2 as m
from sysmem_protocol.library import Method

from .._handles import NodeRef
from .._sharing import moves
from .._timeouts import deadline, remaining
from .._vmo import BufferCollectionInfo, Vmo, borrowed
from . import passing
from .channel_object import ChannelObject, check_client_end
from .events import AsyncEventPair

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike, ReadableBuffer


class Node(ChannelObject):
    """What tokens, collections and groups have in common.

    Closing a node without `release()` makes it fail, and with it all nodes of its failure domain.
    """

    __slots__ = ()
    _interface = m.Node

    async def sync(self, *, timeout: float | None = None) -> None:
        """Wait until the daemon has processed everything sent on this channel before.

        After it, what was made through this channel is known to the daemon, so that it may be given to others.
        """
        await self._call(m.Node.sync, None, timeout)

    async def release(self, *, timeout: float | None = None) -> None:
        """Leave without failing anything: announce it and close.

        What the node asked for stays valid. The object is closed afterwards, also when it raises `PeerClosedError`; not
        when it raises `TimeoutError`.
        """
        await self._send_last(m.Node.release, timeout)

    async def set_name(self, priority: int, name: str, *, timeout: float | None = None) -> None:
        """Name the collection's buffers `<name>:<index>`, where memory use is looked at.

        The first name wins, unless a later one has a greater `priority` than every earlier one. At most 64 bytes of
        UTF-8.
        """
        await self._send(
            m.Node.set_name, m.NodeSetNameRequest(priority=priority, name=name), timeout
        )

    async def set_debug_client_info(
        self, name: str, id: int | None = None, *, timeout: float | None = None
    ) -> None:
        """Say who uses this node, for logs: a name of at most 256 bytes of UTF-8 and a number, a pid usually.

        Children made later inherit it.
        """
        await self._send(
            m.Node.set_debug_client_info, m.SetDebugClientInfoRequest(name=name, id=id), timeout
        )

    async def set_debug_timeout_log_deadline(
        self, deadline: int, *, timeout: float | None = None
    ) -> None:
        """Move the daemon's first warning that allocation is taking a while.

        `deadline` is in nanoseconds of CLOCK_MONOTONIC (`time.monotonic_ns()`); 5 s after the collection's creation
        by default.
        """
        await self._send(
            m.Node.set_debug_timeout_log_deadline,
            m.NodeSetDebugTimeoutLogDeadlineRequest(deadline=deadline),
            timeout,
        )

    async def set_verbose_logging(self, *, timeout: float | None = None) -> None:
        """Have the daemon log the collection's constraints, tree and results from now on."""
        await self._send(m.Node.set_verbose_logging, None, timeout)

    async def get_node_ref(self, *, timeout: float | None = None) -> NodeRef:
        """Get proof of this node, for `is_alternate_for` on another one. The caller closes it."""
        answer = await self._call(m.Node.get_node_ref, None, timeout)
        return self._field(answer, "node_ref", NodeRef)

    async def is_alternate_for(
        self, node_ref: NodeRef | int, *, timeout: float | None = None
    ) -> bool:
        """Ask whether this node and that of `node_ref` are below different children of one group.

        Then at most one of both takes part in the allocation. `node_ref` isn't consumed. Raises `SysmemError` with
        NOT_FOUND for a node of another collection or one that is gone.
        """
        with borrowed(node_ref, NodeRef) as handle:
            answer = await self._call(
                m.Node.is_alternate_for, m.NodeIsAlternateForRequest(node_ref=handle), timeout
            )
        return self._field(answer, "is_alternate", bool)

    async def get_buffer_collection_id(self, *, timeout: float | None = None) -> int:
        """Get the collection's id, which no other one has until the machine is started again."""
        answer = await self._call(m.Node.get_buffer_collection_id, None, timeout)
        return self._field(answer, "buffer_collection_id", int)

    async def set_weak(self, *, timeout: float | None = None) -> None:
        """Make this node weak: it gets buffers, but doesn't keep them alive. So are children made later.

        For a token before it is bound or released, for a collection before `set_constraints`, for a group before
        `all_children_present`; else the node fails.
        """
        await self._send(m.Node.set_weak, None, timeout)

    async def set_weak_ok(
        self, for_child_nodes_also: bool | None = None, *, timeout: float | None = None
    ) -> None:
        """Promise that this client watches `close_weak_asap` of its buffers and closes them soon after it.

        Needed before `wait_for_all_buffers_allocated` on a weak collection. With `for_child_nodes_also` the promise
        also holds for all nodes made below this one later.
        """
        await self._send(
            m.Node.set_weak_ok,
            m.NodeSetWeakOkRequest(for_child_nodes_also=for_child_nodes_also),
            timeout,
        )

    async def attach_node_tracking(self, *, timeout: float | None = None) -> AsyncEventPair:
        """Get an event that closes when this node and all its children are gone from the tree.

        The buffers that were counted for them are free for others then. The caller closes the event. At most 256 a
        node.
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
    """A place in a collection, to be given to a participant, who turns it in with `bind_shared_collection`.

    To another process it goes by `send()` and `receive()` over a Unix socket, or by `offer()` and `take()` of the
    Allocator. Whatever else can pass a descriptor on takes the one that `detach()` gives; `from_fd()` makes a token of
    it there.
    """

    __slots__ = ("_came_from_elsewhere",)
    _interface = m.BufferCollectionToken
    _instead = "send(), or detach() and from_fd(), give it to another process"

    def __init__(self, owned: int | socket.SocketType) -> None:
        super().__init__(owned)
        self._came_from_elsewhere = False

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Become the owner of a token that came from another process; see :meth:`Node.from_fd`."""
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
        """Send this token to whoever is at the other end of a connected Unix socket, and receives it there.

        The token moves: it is closed here, as after `detach()`, unless this raises. A token that was made here and that
        the daemon has not heard of yet is synced first.

        The socket stays the caller's. It may be of any type (stream, seqpacket, datagram) and of any library: anything
        with a `fileno()`, or the descriptor itself. This waits also if the socket is a non-blocking one. A program that
        receives with `socket.recv_fds` gets one descriptor for `from_fd()`, and the data.

        Cancellation: nothing was sent.

        Args:
            sock: The socket.
            data: What goes with the token, for the application: 1 byte to 32 KiB. On a stream socket the receiver gets
                what was sent before and not read yet in front of it.
            timeout: Seconds until `TimeoutError`. Nothing was sent then.

        Raises:
            BrokenPipeError: The other end of the socket is closed.
            OSError: The kernel refuses: the socket is not connected, say.
            PeerClosedError: The token has failed.
            TypeError, ValueError: `sock` is no Unix socket, or `data` can't go.
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
        """Receive a token that somebody sent over a connected Unix socket, and the data that came with it.

        The caller closes the token or turns it in. The socket is as for :meth:`send`; what is sent with
        `socket.send_fds` arrives too. A datagram socket does not tell that its other end is closed, so give a timeout.

        Cancellation: nothing is lost, the next call receives it.

        Args:
            sock: The socket.
            timeout: Seconds until `TimeoutError`. What comes later is received by the next call.

        Raises:
            EOFError: The other end of the socket is closed, and all that it sent was received.
            ValueError: What came is no token: no descriptor, several, or one of another kind. It is dropped and closed,
                and the socket can be used on. Or `sock` is no Unix socket.
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
        """Make sure that the daemon knows this token, and that no late answers to us come to its next owner."""
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
        """Make a child token, whose participant gets this one's rights as far as the mask has them.

        It can be used at once here; `sync()` before it is given to somebody who turns it in on another channel.
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
        """Make a child token per mask, at most 64, known to the daemon already; in the order of the masks."""
        return await self._create_tokens(
            m.BufferCollectionToken.duplicate_sync, rights_attenuation_masks, timeout
        )

    async def set_dispensable(self, *, timeout: float | None = None) -> None:
        """Let this node's failure after allocation spare its parent. Before allocation it still reaches it."""
        await self._send(m.BufferCollectionToken.set_dispensable, None, timeout)

    async def create_buffer_collection_token_group(
        self, *, timeout: float | None = None
    ) -> BufferCollectionTokenGroup:
        """Make a group as a child: of its own children exactly one takes part in the allocation."""
        return await self._open(
            BufferCollectionTokenGroup,
            m.BufferCollectionToken.create_buffer_collection_token_group,
            timeout,
        )


class BufferCollection(Node):
    """One participant's view of a collection: says what it needs, and gets the buffers."""

    __slots__ = ()
    _interface = m.BufferCollection

    async def set_constraints(
        self,
        constraints: m.BufferCollectionConstraints | None = None,
        *,
        must_match_vmo: Vmo | int | None = None,
        timeout: float | None = None,
    ) -> None:
        """Say what this participant needs, once.

        Without `constraints` it uses nothing, constrains nothing and gets no VMOs. `must_match_vmo`, a VMO of any
        collection, asks for buffers with its settings; it isn't consumed.
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
        """Wait for this node's allocation, and get the buffers. The caller closes the info.

        May be asked again; each answer has descriptors of its own. Raises `SysmemError` when the allocation failed,
        `PeerClosedError` when the node failed for another reason or a group chose other children.
        """
        answer = await self._call(m.BufferCollection.wait_for_all_buffers_allocated, None, timeout)
        return self._field(answer, "buffer_collection_info", BufferCollectionInfo)

    async def check_all_buffers_allocated(self, *, timeout: float | None = None) -> None:
        """Return when this node's allocation has succeeded.

        Raises `SysmemError` with PENDING before it was attempted, and with the reason after it failed.
        """
        await self._call(m.BufferCollection.check_all_buffers_allocated, None, timeout)

    async def attach_token(
        self,
        rights_attenuation_mask: m.Rights | int = m.Rights.SAME_RIGHTS,
        *,
        timeout: float | None = None,
    ) -> BufferCollectionToken:
        """Make a child token for somebody who comes later, before or after the allocation.

        It takes no part in this node's allocation and doesn't fail it: it shares the buffers that exist if they
        suffice for it.
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
        """Get an event that closes when at most `buffers_remaining` of the collection's buffers still exist.

        A buffer exists until every handle to it and every mapping of it is gone, in every process. The event outlives
        this node; the caller closes it.
        """
        return await self._open(
            AsyncEventPair,
            m.BufferCollection.attach_lifetime_tracking,
            timeout,
            buffers_remaining=buffers_remaining,
        )


class BufferCollectionTokenGroup(Node):
    """A choice: children in order of preference, of which exactly one takes part in an allocation."""

    __slots__ = ()
    _interface = m.BufferCollectionTokenGroup

    async def create_child(
        self,
        rights_attenuation_mask: m.Rights | int | None = None,
        *,
        timeout: float | None = None,
    ) -> BufferCollectionToken:
        """Make a child token, tried after the earlier ones. Without a mask its rights are the group's."""
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
        """Make a child token per mask, at most 64, known to the daemon already; in the order of the masks."""
        return await self._create_tokens(
            m.BufferCollectionTokenGroup.create_children_sync, rights_attenuation_masks, timeout
        )

    async def all_children_present(self, *, timeout: float | None = None) -> None:
        """Say that no more children come; only then does allocation go on."""
        await self._send(m.BufferCollectionTokenGroup.all_children_present, None, timeout)


moves(BufferCollectionToken, BufferCollection, BufferCollectionTokenGroup)
