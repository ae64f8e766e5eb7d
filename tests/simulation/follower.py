"""The model follows the daemon: each message that the daemon processes is applied to the model. Then both must agree.

The model of the tree (:mod:`tests.sysmemd.tree.model`) computes the effect of each message. It was written from the
specification and shares no code with the daemon. An event that the model can't predict needs an excuse, for example a
node that fails although its client made no mistake, or an allocation without memory. An excuse is a fault of the
kernel, or a client that misbehaves on purpose.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from sysmem_protocol.channel import PeerClosedError
from sysmem_protocol.library import Method
from sysmem_protocol.sysmem2 import BufferCollectionConstraints, Error
from sysmemd.channels import AllocatorServer, Connection, Service
from sysmemd.channels.nodes import NodeServer, TokenServer
from sysmemd.channels.service import Token
from sysmemd.memory import Buffers
from sysmemd.quota import Exceeded
from sysmemd.testing.connection import TestedConnection
from sysmemd.testing.memory import TestedMemory
from sysmemd.tree import Allocated, LogicalBufferCollection, Misuse
from sysmemd.users import OverLimitError

from ..sysmemd.tree.model import DaemonsModel, ModelNode
from .kernel import Kernel

SAME_RIGHTS = 0x80000000


class Followed:
    """One collection, and its model."""

    def __init__(self, collection: LogicalBufferCollection) -> None:
        self.collection = collection
        self.model = DaemonsModel(max_group_selections=64)
        #: The nodes that were in the tree at the last comparison.
        self.pairs: dict[Any, ModelNode] = {collection.root: self.model.root}
        #: Events that happened while the daemon was still processing another one in this collection.
        self.pending: list[Callable[[], None]] = []
        #: The number of calls and ends that the daemon is processing.
        self.under_way = 0

    @property
    def is_settled(self) -> bool:
        """Whether everything that the daemon has done was applied to the model."""
        return not (self.collection.busy or self.under_way or self.pending)


class Follower:
    """All collections of a daemon, and the nodes that have an excuse to fail."""

    def __init__(
        self, kernel: Kernel, say: Callable[[str], None], stop: Callable[[], None]
    ) -> None:
        """Follow a daemon. `say` is called with each step, `stop` is called when daemon and model disagree."""
        self._kernel = kernel
        self._say = say
        self._stop = stop
        self.service: Service
        self.collections: dict[int, Followed] = {}
        #: Nodes by the number of their channel, including closed ones.
        self.nodes: dict[int, tuple[Followed, ModelNode]] = {}
        #: The model's numbers of the trackings of each channel, in order.
        self.trackings: dict[int, list[int]] = {}
        self._events = 0
        #: Nodes that a call has created and the numbers of their channels, by parent, until the call is applied to the
        #: model.
        self.made: dict[Any, list[tuple[Any, int]]] = {}
        #: Channels whose clients break rules on purpose, by the numbers of the daemon's ends.
        self.daring: set[int] = set()
        self.violation: str | None = None
        self.steps = 0

    # --- what is wrong ------------------------------------------------------------------------------------------------

    def violated(self, text: str) -> None:
        """Report a violation. Only the first one counts."""
        if self.violation is None:
            self.violation = text
            self._say(f"VIOLATION: {text}")
            self._stop()

    def check(self, holds: object, text: str) -> None:
        """Report a violation unless a condition holds."""
        if not holds:
            self.violated(text)

    def has_excuse(self) -> bool:
        """Return whether a fault may have caused the error."""
        return self._kernel.faults > 0

    # --- what the daemon does -----------------------------------------------------------------------------------------

    def called(self, connection: Connection, method: Method, request: Any, answer: Any) -> None:
        """Apply a call that the daemon has processed."""
        self._step(connection, method, answer)
        server = connection.server
        if isinstance(server, AllocatorServer):
            if method.name in ("allocate_shared_collection", "allocate_non_shared_collection"):
                self._made(bound=method.name == "allocate_non_shared_collection")
        elif isinstance(server, NodeServer):
            followed = self.collections[server.node.collection.id]
            self._happens(followed, partial(self._call, followed, server, method.name, request))

    def bound(self, token: TokenServer) -> None:
        """A token was turned in."""
        node = token.node
        followed = self.collections[node.collection.id]

        def bind() -> None:
            modelled = followed.pairs.get(node)
            if modelled is None:
                return  # the node has failed since
            self.check(followed.model.bind(modelled), "a token was bound that can't be")
            server = node.channel
            assert isinstance(server, NodeServer)
            self.nodes[server.koid] = followed, modelled
            self.trackings[server.koid] = []

        self._happens(followed, bind)

    def refused(
        self, connection: Connection, method: Method, request: Any, error: Exception
    ) -> None:
        """Handle the daemon's refusal of a call: it had no effect, but the node is about to fail."""
        self._step(connection, method, error)
        server = connection.server
        if not isinstance(server, NodeServer):
            return
        if not isinstance(error, Misuse):
            if not isinstance(error, Exceeded):
                holds = self._dares(server) or self.has_excuse()
                self.check(holds, f"refused without a reason: {error!r}")
            return
        followed = self.collections[server.node.collection.id]

        def refuse() -> None:
            modelled = followed.pairs.get(server.node)
            if modelled is not None:
                allowed = self._allowed(followed.model, modelled, server, method.name, request)
                self.check(not allowed, f"{method} was refused: {error}")

        self._happens(followed, refuse)

    def ended(self, connection: FollowedConnection, server: Any, how: str, why: str) -> None:
        """Handle the end of a channel. `how` is the name of the server's method that was called."""
        self._step(connection, how, why)
        if how == "refuse" and not connection.misused:
            self.check(self._dares(server), f"refused without a reason: {why}")
        elif how == "failed":
            self.check(self.has_excuse(), f"failed without a reason: {why}")
        if isinstance(server, NodeServer) and server.node_or_none is not None:
            followed = self.collections[server.node.collection.id]

            def end() -> None:
                modelled = followed.pairs.get(server.node)
                if modelled is None or modelled.failed:
                    return  # the event comes late
                if how == "peer_closed":
                    followed.model.close(modelled)
                else:
                    self._fail(followed, server.node)

            self._happens(followed, end)

    def failed(self, node: Any) -> None:
        """Handle the failure of a node that was not caused by its channel."""
        followed = self.collections[node.collection.id]
        if followed.under_way or not (node in followed.pairs and not node.in_tree):
            return
        self._say("a node failed by itself")
        self.check(self.has_excuse(), f"{node!r} failed without a reason")
        self._happens(followed, partial(self._fail, followed, node))

    def _fail(self, followed: Followed, node: Any) -> None:
        modelled = followed.pairs.get(node)
        if modelled is not None and not modelled.failed:
            followed.model.fail(modelled)

    def check_served(self) -> None:
        """Check that every node in a tree is served, unless its client has left."""
        for followed in self.collections.values():
            self.check(followed.is_settled, "a collection stays busy")
            self.look(followed)
            if self.violation is not None:
                return
            for node, modelled in followed.pairs.items():
                reading = node.channel.connection.reading
                self.check(reading != modelled.orphan, f"{node!r} is served: {reading}")

    def memory_made(self, collection_id: int, result: object) -> None:
        """Handle the end of an allocation."""
        followed = self.collections[collection_id]
        followed.model.no_memory = isinstance(result, Exception)
        self._say(f"memory: {type(result).__name__}")
        if isinstance(result, Exception) and not isinstance(result, OverLimitError):
            self.check(self.has_excuse(), f"no memory: {result!r}")

    def no_strong_handles(self, collection: LogicalBufferCollection) -> None:
        """Handle the failure of a collection without strong handles."""
        followed = self.collections[collection.id]
        self._say("no strong handles")
        self.check(
            followed.model.gone or followed.model.strong_dropped,
            "a collection with strong nodes failed for want of strong handles",
        )
        self._happens(followed, followed.model.no_strong_handles)

    @contextlib.contextmanager
    def under_way(self, server: Any) -> Iterator[None]:
        """Mark that the daemon is processing something for the client of a server, within the block."""
        followed = None
        if isinstance(server, NodeServer) and server.node_or_none is not None:
            followed = self.collections.get(server.node.collection.id)
        if followed is None:
            yield
            return
        followed.under_way += 1
        try:
            yield
        finally:
            followed.under_way -= 1

    def known(self, koid: int) -> tuple[Followed, ModelNode] | None:
        """Return the model's node for the number of its channel, or None while the daemon is still processing it."""
        found = self.nodes.get(koid)
        return found if found is not None and found[0].is_settled else None

    # --- the model ----------------------------------------------------------------------------------------------------

    def _step(self, connection: Connection, what: object, outcome: object) -> None:
        self.steps += 1
        self._say(f"{connection.number} {what}: {_told(outcome)}")

    def _dares(self, server: Any) -> bool:
        """Return whether the client of a channel breaks rules on purpose."""
        return isinstance(server, NodeServer) and server.koid in self.daring

    def _made(self, *, bound: bool) -> None:
        collection = next(reversed(self.service.collections.values()))
        followed = self.collections[collection.id] = Followed(collection)
        if bound:
            followed.model.bind(followed.model.root)
        root: Any = collection.root
        self._found(followed, root, root.channel.koid, followed.model.root)
        self.look(followed)

    def _found(self, followed: Followed, node: Any, koid: int, modelled: ModelNode) -> None:
        followed.pairs[node] = modelled
        self.nodes[koid] = followed, modelled
        self.trackings[koid] = []

    def _happens(self, followed: Followed, step: Callable[[], None]) -> None:
        followed.pending.append(step)
        self.look(followed)

    def look(self, followed: Followed) -> None:
        """Compare a collection with the model, unless the daemon is processing an event in it."""
        if followed.collection.busy or followed.under_way or self.violation is not None:
            return
        pending, followed.pending = followed.pending, []
        for step in pending:
            step()
        self._compare(followed)

    def _call(self, followed: Followed, server: NodeServer, name: str, request: Any) -> None:
        node = server.node
        modelled = followed.pairs.get(node)
        if modelled is None:
            self.violated(f"{name} was processed on a node that had failed")
            return
        before = len(modelled.children)
        allowed = self._allowed(followed.model, modelled, server, name, request)
        self.check(allowed, f"{name} was allowed")
        if len(modelled.children) > before and not modelled.failed:
            news = modelled.children[before:]
            made = self.made.pop(node)
            for (child, koid), new in zip(made, news, strict=True):
                self._found(followed, child, koid, new)
            for child, _ in made:
                if not child.in_tree:  # the node failed before the call was over
                    self.check(self.has_excuse(), f"{child!r} failed without a reason")
                    self._fail(followed, child)

    def _allowed(
        self, model: DaemonsModel, node: ModelNode, server: NodeServer, name: str, request: Any
    ) -> bool:
        """Apply a message to the model. Return whether it is allowed."""
        match name:
            case "duplicate":
                return model.create(node, "token", request.rights_attenuation_mask)
            case "create_buffer_collection_token_group":
                return model.create(node, "group", SAME_RIGHTS)
            case "attach_token":
                mask = request.rights_attenuation_mask
                return model.create(node, "token", mask, attached=True)
            case "create_child":
                mask = request.rights_attenuation_mask
                return node.kind == "group" and model.create(
                    node, "token", SAME_RIGHTS if mask is None else mask
                )
            case "duplicate_sync" | "create_children_sync":
                return model.create_sync(node, request.rights_attenuation_masks)
            case "set_constraints":
                return model.set_constraints(node, _wish(request.constraints))
            case "set_weak_ok":
                return model.set_weak_ok(node, bool(request.for_child_nodes_also))
            case "attach_node_tracking":
                return model.attach_tracking(node, self._new_event(server))
            case "attach_lifetime_tracking":
                return model.attach_lifetime(node, self._new_event(server))
            case "check_all_buffers_allocated":
                return model.check(node)
            case "wait_for_all_buffers_allocated":
                return model.wait(node)
            case "set_weak" | "set_dispensable" | "all_children_present" | "release":
                happen: Callable[[ModelNode], bool] = getattr(model, name)
                return happen(node)
        return not node.released

    def _new_event(self, server: NodeServer) -> int:
        self._events += 1
        self.trackings[server.koid].append(self._events)
        return self._events

    # --- what they must agree on --------------------------------------------------------------------------------------

    def _compare(self, followed: Followed) -> None:
        for node, modelled in list(followed.pairs.items()):
            if (flaw := _flaw(node, modelled, followed.model)) is not None:
                self.violated(f"{node!r}: {flaw}; the model has {modelled}")
                return
            if modelled.failed:
                del followed.pairs[node]
        gone = followed.model.gone
        self.check(followed.collection.is_gone == gone, f"is gone: {not gone}")


def _flaw(node: Any, modelled: ModelNode, model: DaemonsModel) -> str | None:
    """Return the property of a node that differs from the model, if any."""
    if node.in_tree == modelled.failed:
        return f"in the tree: {node.in_tree}"
    if modelled.failed:
        return None
    if node.kind.value != modelled.kind:
        return f"it is a {node.kind.value}"
    if node.is_weak != modelled.weak:
        return f"weak: {node.is_weak}"
    if node.rights_mask != modelled.rights:
        return f"its rights are {node.rights_mask:#x}"
    if modelled.result == "success":
        if not isinstance(node.outcome, Allocated) or node.outcome.count != model.count:
            return f"its outcome is {node.outcome}"
    elif node.outcome != modelled.result:
        return f"its outcome is {node.outcome}"
    return None


def _wish(constraints: BufferCollectionConstraints | None) -> tuple[int, int, int]:
    if constraints is None:
        return 0, 0, 128
    return (
        constraints.min_buffer_count_for_camping or 0,
        constraints.min_buffer_count or 0,
        constraints.max_buffer_count or 128,
    )


def _told(outcome: object) -> str:
    """Return an outcome without the parts that differ between runs."""
    if isinstance(outcome, Error):
        return outcome.name
    if isinstance(outcome, str):
        return outcome.partition(":")[0]
    return type(outcome).__name__


# --- what is put into the daemon --------------------------------------------------------------------------------------


class FollowedConnection(TestedConnection):
    """A connection that reports its calls to the follower."""

    def __init__(self, *arguments: Any, follower: Follower, **named: Any) -> None:
        self._follower = follower
        #: Whether the tree has refused the last call.
        self.misused = False
        super().__init__(*arguments, **named)

    def _call(self, method: Method, request: Any) -> Any:
        token: Token | None = None
        if method.name == "bind_shared_collection" and request.token is not None:
            with contextlib.suppress(OSError):
                koid = self._follower.service.koid_of(request.token)
                token = self._follower.service.tokens.get(koid or 0)
        try:
            with self._follower.under_way(self._server):
                answer = super()._call(method, request)
        except Exception as error:
            self.misused = isinstance(error, Misuse)
            self._follower.refused(self, method, request, error)
            raise
        self._follower.called(self, method, request, answer)
        if isinstance(token, TokenServer) and token.node.channel is not token:
            self._follower.bound(token)
        return answer

    def _dispatch_bare(self, method: Method, data: bytes) -> None:
        try:
            with self._follower.under_way(self._server):
                super()._dispatch_bare(method, data)
        except PeerClosedError:  # the client closed without waiting for the response
            self._follower.called(self, method, None, None)
            raise
        except Exception as error:
            self.misused = isinstance(error, Misuse)
            self._follower.refused(self, method, None, error)
            raise
        self._follower.called(self, method, None, None)

    def _end(self, tell: Callable[..., None], *reason: object) -> None:
        server = self._server
        with self._follower.under_way(server):
            super()._end(tell, *reason)
        self._follower.ended(self, server, tell.__name__, str(reason[0]) if reason else "")


class FollowedMemory(TestedMemory):
    """A memory that reports its outcomes to the follower."""

    def __init__(self, *arguments: Any, follower: Follower, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._follower = follower

    def allocate(self, *, done: Callable[[Buffers | Exception], None], **named: Any) -> None:
        """See :class:`sysmemd.memory.Memory`."""

        def made(result: Buffers | Exception) -> None:
            self._follower.memory_made(named["collection_id"], result)
            done(result)

        super().allocate(done=made, **named)
