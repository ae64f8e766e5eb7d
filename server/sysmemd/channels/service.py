"""The state that all channels of a daemon share: tokens that can be turned in, collections, and the ports.

The name of a client end's peer (:mod:`.names`) says which node it claims to be, and a nonce that is sent through it
proves the claim (`docs/spec/linux.md`, "Which node is this client end?").
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast

from sysmem_protocol.channel import AT_ONCE, Channel, Closing
from sysmem_protocol.handles import Handle
from sysmem_protocol.kinds import is_kind
from sysmem_protocol.library import HandleKind
from sysmem_protocol.sysmem2 import SingleBufferSettings

from ..config import InspectSection, Limits
from ..constraints import Platform
from ..documents import Document
from ..in_flight import InFlight
from ..memory import Buffers, Memory, attenuation_is_advisory
from ..ports import ClientInfo, Clock, Log
from ..refusals import Refusals
from ..tree import (
    Attempt,
    CollectionData,
    LogicalBufferCollection,
    Node,
    NodeChannel,
    NodeData,
    WhoHas,
)
from ..users import Account, Charge, OverLimitError, Users
from .answering import explanation
from .connection import Connection, Reactor, Tracer
from .errors import Refused
from .meetings import TOKEN_GONE, Meetings
from .names import Names
from .node_refs import NodeRefs
from .reasons import Reason, cut
from .requests import flaw_of
from .server import Server

#: For each buffer, whether its VMO and its `close_weak_asap` are un-set.
Shape = tuple[tuple[bool, bool], ...]

_NONCE_BYTES = 32
#: How often to make room for a nonce in a token's queue before the client that keeps filling it is refused.
_NONCE_ATTEMPTS = 16


class PaidMemory:
    """Creates the buffers of a collection, charged to the account of its root at that time."""

    def __init__(self, memory: Memory, root: Callable[[], Node]) -> None:
        self._memory = memory
        self._root = root

    def allocate(self, *, done: Callable[[Buffers | Exception], None], **details: Any) -> None:
        """See :class:`sysmemd.tree.BufferMaker`."""
        root = self._root()
        account = cast("Charge", root.charge).account

        def made(result: Buffers | Exception) -> None:
            if isinstance(result, OverLimitError):
                client = root.client
                about = {"client_name": client.name, "client_id": client.id}
                account.say(result.exceeded, {**about, "collection_id": root.collection.id})
            done(result)

        self._memory.allocate(done=made, payer=account, **details)


class CollectionIds:
    """Collection ids: unique per boot, also across restarts of the daemon (`docs/spec/allocation.md`, "The tree").

    An id is the time since boot in nanoseconds, or the last id plus one if that is greater.
    """

    def __init__(self) -> None:
        self._last = 1

    def __next__(self) -> int:
        self._last = max(self._last + 1, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        return self._last


class Token(Protocol):
    """The server of a token that can be turned in."""

    node: Node
    connection: Connection
    #: Called when the token can no longer be turned in, perhaps in the middle of a change of the tree.
    watchers: set[Callable[[], None]]

    def turn_in(self, channel: NodeChannel, client: ClientInfo | None, client_end: Handle) -> Node:
        """Turn the node into a collection that is served on `channel`, and close both ends of the token's channel.

        The client end may stay open while responses are still queued on it. In that case the caller closes it.

        Raises :class:`Misuse` if the token was released. Nothing is changed then.
        """


@dataclass(slots=True)
class Party:
    """The participants of a collection, present and past."""

    #: The account of the root's creator, which pays for the buffers.
    owner: Account
    #: All users that have had a node in the tree.
    uids: set[int] = field(default_factory=set)
    #: The responses with buffers, as far as they are equal for all participants: the settings, and for each buffer
    #: which handles are left out.
    answers: dict[Shape, tuple[SingleBufferSettings, bytes]] = field(default_factory=dict)


class Service:
    """The state that channels share, and the ports that they use."""

    def __init__(
        self,
        *,
        limits: Limits,
        platform: Platform,
        memory: Memory,
        clock: Clock,
        reactor: Reactor,
        log: Log,
        in_flight: InFlight,
        closing: Closing = AT_ONCE,
        inspect: InspectSection | None = None,
        make_connection: Callable[..., Connection] = Connection,
    ) -> None:
        """`closing` closes descriptors that came from clients.

        `make_connection` has the arguments of :class:`Connection`.
        """
        self.limits = limits
        self.platform = platform
        self.memory = memory
        self.clock = clock
        self.reactor = reactor
        self.in_flight = in_flight
        self.log = log
        self.closing = closing
        self.inspect = inspect or InspectSection()
        self._make_connection = make_connection
        self.refusals = Refusals(log, clock)
        self.users = Users(self.refusals, clock, in_flight.all)
        #: Tokens that can be turned in, by the koid of their server end.
        self.tokens: dict[int, Token] = {}
        #: All collections, until their last node has left, by id.
        self.collections: dict[int, LogicalBufferCollection] = {}
        #: Ended collections some of whose buffers still exist, by id.
        self.lingering: dict[int, LogicalBufferCollection] = {}
        #: The parties of both kinds of collections.
        self.parties: dict[int, Party] = {}
        #: Told of each collection that fails as a whole, before any client is.
        self.on_failure: Callable[[CollectionData], None] = lambda _: None
        #: Told of each collection that has ended.
        self.on_ended: Callable[[LogicalBufferCollection], None] = lambda _: None
        #: Called with each finished allocation attempt.
        self.on_attempt: Callable[[CollectionData, Attempt], None] = lambda *_: None
        #: Receives reports of messages on channels, of served nodes, and of collections' log entries.
        self.tracer = Tracer()
        self.collection_log = log
        #: Finds the processes that the allocation waits for.
        self.who_has: WhoHas = lambda _, then: then({})
        self._report: tuple[str, Document] | None = None
        self.node_refs = NodeRefs()
        self.meetings = Meetings(self.find_token, self.why_unknown)
        self._collection_ids = CollectionIds()
        self.names = Names(closing)
        self._connection_numbers = itertools.count(1)
        self._said_advisory: set[int] = set()

    def say_if_advisory(self, uid: int) -> None:
        """Log once for each user if rights are advisory for its participants (`docs/spec/linux.md`, "VMOs")."""
        if uid in self._said_advisory or not attenuation_is_advisory(uid):
            return
        self._said_advisory.add(uid)
        if uid == 0 and os.geteuid() != 0:
            event = "rights are advisory for participants that run as root: root can reopen any buffer as writable"
        else:
            event = (
                "rights are advisory for participants of the daemon's own user: they can reopen their buffers "
                "as writable through /proc. Run the daemon as a user of its own"
            )
        self.log.warning(event, uid=uid)

    def connect(self, channel: Channel, server: Server, account: Account) -> Connection:
        """Serve a channel, charged to `account`. The connection takes ownership of it."""
        return self._make_connection(
            channel,
            server,
            account,
            number=next(self._connection_numbers),
            since=self.clock.now(),
            reactor=self.reactor,
            in_flight=self.in_flight,
            limits=self.limits,
            log=self.log,
            tracer=self.tracer,
        )

    def new_collection(
        self, channel: NodeChannel, client: ClientInfo | None, charge: Charge
    ) -> LogicalBufferCollection:
        """Create a collection whose root is served on `channel`. `charge` is closed when the collection has ended."""
        id = next(self._collection_ids)
        collection = LogicalBufferCollection(
            id,
            channel=channel,
            client=client or ClientInfo(),
            platform=self.platform,
            memory=PaidMemory(self.memory, lambda: self.collections[id].root),
            clock=self.clock,
            log=self.collection_log,
            max_group_selections=self.limits.max_group_selections,
            on_gone=partial(self._forget_collection, id, charge),
            in_turn=partial(self.reactor.in_turn, charge.account.user),
            who_has=lambda nodes, then: self.who_has(nodes, then),
        )
        collection.on_attempt = self.on_attempt
        collection.on_failure = self.on_failure
        self.collections[id] = collection
        self.parties[id] = Party(charge.account)
        return collection

    def _forget_collection(self, id: int, charge: Charge) -> None:
        charge.close()
        collection = self.collections.pop(id)
        try:
            self.on_ended(collection)
        finally:
            if collection.buffers is None:
                del self.parties[id]
            else:
                self.lingering[id] = collection
                # The tree's type has only the methods that the tree needs.
                cast("Buffers", collection.buffers).when_gone(partial(self._forget_buffers, id))

    def _forget_buffers(self, id: int) -> None:
        del self.lingering[id]
        del self.parties[id]

    # --- reasons ------------------------------------------------------------------------------------------------------

    def may_name_others(self, node: NodeData, account: Account) -> bool:
        """Return whether a participant may see other participants' data and actions (`[inspect] to_participants`)."""
        match self.inspect.to_participants:
            case "same-user":
                return account.user.uid == 0 or len(self.parties[node.collection.id].uids) == 1
            case others:
                return others == "all"

    def explain(self, connection: Connection, reason: Reason) -> None:
        """Send the reason for an error response, or for the end of the channel, if the client asked for it."""
        report = None
        if connection.explained and reason.report is not None:
            with contextlib.suppress(OSError):  # then send only the line
                report = self._document(reason.report).open()
        connection.explain(reason.error, reason.line, report)

    def _document(self, text: str) -> Document:
        """Return a report as a document. It is kept for other participants that receive it in this turn."""
        if self._report is None or self._report[0] is not text:
            self._drop_report()
            self._report = text, Document("sysmem report", [text.encode()])
            self.clock.call_at(self.clock.now(), self._drop_report)
        return self._report[1]

    def _drop_report(self) -> None:
        if self._report is not None:
            self._report[1].close()
            self._report = None

    def tell_unserved(self, server_end: Handle, line: str) -> None:
        """Tell the client of a server end why it will not be served.

        The caller keeps the handle, and must close it without shutting it down: a client may have kept a duplicate with
        which it can use the pair again.
        """
        [(data, _)] = explanation(None, cut(line)).datagrams()
        channel = Channel(server_end.fileno())
        try:
            channel.send(data)
        except OSError:
            pass  # the client is gone, or does not read
        finally:
            channel.take()

    def close(self) -> None:
        """End all collections and offers, because the daemon stops.

        The reactor closes service connections and unread responses.
        """
        self.meetings.close()
        self._drop_report()
        for collection in list(self.collections.values()):
            collection.shut_down()

    def find_token(self, client_end: Handle) -> Token | None:
        """Return the token with this client end, after everything that was sent on it before has been processed.

        Returns None if it is not the client end of a live, un-bound token. The caller keeps the handle.

        The token's channel is read even during an allocation attempt. A token is never part of a running attempt; it
        may be waiting, attached, for its own attempt. So messages that were sent on it do not change the attempt. They
        are processed as if they had arrived before the attempt. A client cannot tell the difference, because they
        arrived on other channels than the messages that started the attempt.
        """
        try:
            channel = Channel(client_end.as_socket())
            server = self._named(channel.peer_name())
            if server is None:
                return None
            nonce = self.names.random.take(_NONCE_BYTES)
            for _ in range(_NONCE_ATTEMPTS):
                if channel.send(nonce):
                    return server if server.connection.receive_until(nonce) else None
                server.connection.receive_until(None)  # the queue is full
                if client_end.closed:
                    return None  # its owner sent more while other clients were served
            return None
        except OSError:
            return None  # the token has closed meanwhile, or nothing can be sent on the end

    def check_client_end(self, client_end: Handle) -> None:
        """Raise :class:`Refused` if a handle that was sent as a token cannot be the client end of any channel."""
        if not is_kind(client_end.fileno(), HandleKind.CLIENT_END):
            raise Refused(flaw_of("token", client_end, HandleKind.CLIENT_END))

    def koid_of(self, client_end: Handle) -> int | None:
        """Return the koid of the server end at the other side, if it is one of this daemon's."""
        return self.names.koid(Channel(client_end.as_socket()).peer_name())

    def why_unknown(self, client_end: Handle) -> str:
        """Return the likely reason why :meth:`find_token` finds nothing."""
        channel = Channel(client_end.as_socket())
        if channel.hung_up():
            return TOKEN_GONE
        if channel.peer_name().startswith(self.names.prefix):
            return "it is the client end of a channel that is not a token's"
        return (
            "it was not created by this daemon, or its creator passed it on without waiting for the "
            "response to Sync"
        )

    def is_to_come(self, client_end: Handle) -> bool:
        """Return whether this can be the client end of a token whose server end has not reached the daemon yet."""
        channel = Channel(client_end.as_socket())
        return not channel.peer_name() and not channel.hung_up()

    def _named(self, name: bytes) -> Token | None:
        koid = self.names.koid(name)
        return None if koid is None else self.tokens.get(koid)
