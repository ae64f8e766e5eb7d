"""What all channels of a daemon share: names for server ends, the tokens that can be turned in, proofs of nodes.

A server end gets a name that its client end sees with getpeername(): `\\0sysmem/<random per daemon>/<koid>`. A client
end that arrives later says by that name which node it claims to be, and a nonce sent through it proves the claim
(`docs/spec/linux.md`, "Which node is this client end?").
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, cast

from sysmem_protocol.channel import AT_ONCE, Channel, Closing, ServedChannel
from sysmem_protocol.handles import Handle, describe, is_kind
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
from .meetings import Meetings
from .node_refs import NodeRefs
from .reasons import Reason, cut
from .requests import flaw_of
from .server import Server

#: Of each buffer, whether its VMO and its `close_weak_asap` are un-set.
Shape = tuple[tuple[bool, bool], ...]

#: Any client can see the names and bind the ones to come, if it can guess them.
_KOID_RANDOM_BITS = 24
_NONCE_BYTES = 32
#: How many random bytes are asked for at a time.
_RANDOM_BYTES = 4096
#: How often room is made for a nonce in the queue to a token, before whoever keeps filling it is refused.
_NONCE_ATTEMPTS = 16


class PaidMemory:
    """Makes the buffers of a collection at the expense of whoever its root counts against by then."""

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
    """Collection ids: unique per boot, also among daemons that ran before (`docs/spec/allocation.md`, "The tree").

    An id is the time since boot in nanoseconds, or one more than the last when that is no later.
    """

    def __init__(self) -> None:
        self._last = 1

    def __next__(self) -> int:
        self._last = max(self._last + 1, time.clock_gettime_ns(time.CLOCK_BOOTTIME))
        return self._last


class Random:
    """Random bytes; the kernel is asked for many at a time."""

    def __init__(self) -> None:
        self._bytes = b""
        self._used = 0

    def take(self, count: int) -> bytes:
        """Return so many bytes that nobody else gets."""
        start, self._used = self._used, self._used + count
        if self._used > len(self._bytes):
            self._bytes = os.urandom(_RANDOM_BYTES)
            start, self._used = 0, count
        return self._bytes[start : self._used]


class Token(Protocol):
    """The server of a token that can be turned in."""

    node: Node
    connection: Connection
    #: Called when this can't be turned in any more, perhaps in the middle of a change of the tree.
    watchers: set[Callable[[], None]]

    def turn_in(self, channel: NodeChannel, client: ClientInfo | None, client_end: Handle) -> Node:
        """Make the node a collection that is served on `channel`, and close both ends of the token's own.

        The client end may stay open, and be its caller's to close, while answers are still to be sent on it.

        Raises :class:`Misuse` for a token that was released; nothing has changed then.
        """


@dataclass(slots=True)
class Party:
    """Who takes, or took, part in a collection."""

    #: Who made the root, and pays for buffers.
    owner: Account
    #: All users who had a node in the tree.
    uids: set[int] = field(default_factory=set)
    #: What participants were answered who got buffers, with what is the same for all of them: the settings, and by
    #: buffer which handles are left out.
    answers: dict[Shape, tuple[SingleBufferSettings, bytes]] = field(default_factory=dict)


class Service:
    """The state that channels share, and the ports through which they act."""

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
        """`closing` closes what clients have had a hand in.

        `make_connection` is called as :class:`Connection` is.
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
        #: Collections that have ended while some of their buffers still exist, by id.
        self.lingering: dict[int, LogicalBufferCollection] = {}
        #: Who takes part in each of either kind.
        self.parties: dict[int, Party] = {}
        #: Told of each collection that fails as a whole, before any client is.
        self.on_failure: Callable[[CollectionData], None] = lambda _: None
        #: Told of each collection that has ended.
        self.on_ended: Callable[[LogicalBufferCollection], None] = lambda _: None
        #: Told of each attempt to allocate that has finished.
        self.on_attempt: Callable[[CollectionData, Attempt], None] = lambda *_: None
        #: Told what comes and goes on channels, which nodes are served, and what collections say.
        self.tracer = Tracer()
        self.collection_log = log
        #: Finds the processes that others wait for.
        self.who_has: WhoHas = lambda _, then: then({})
        self._report: tuple[str, Document] | None = None
        self.node_refs = NodeRefs()
        self.meetings = Meetings(self.find_token, self.why_unknown)
        self._collection_ids = CollectionIds()
        self.random = Random()
        self._koids = itertools.count(1)
        self._connection_numbers = itertools.count(1)
        self._said_advisory: set[int] = set()
        self._prefix = b"\0sysmem/%s/" % secrets.token_hex(8).encode()

    def say_if_advisory(self, uid: int) -> None:
        """Log once a user that rights are advisory for its participants, if they are (`docs/spec/linux.md`, "VMOs")."""
        if uid in self._said_advisory or not attenuation_is_advisory(uid):
            return
        self._said_advisory.add(uid)
        if uid == 0 and os.geteuid() != 0:
            event = (
                "rights are advisory for participants that run as root: nothing is closed to them"
            )
        else:
            event = (
                "rights are advisory for participants of the daemon's own user: they can reopen what they are given "
                "through /proc. Give the daemon a user of its own"
            )
        self.log.warning(event, uid=uid)

    def name_server_end(self, handle: Handle) -> tuple[int, Channel]:
        """Take over a server end that arrived, and name it; its koid and channel.

        Raises :class:`Refused` when it has a name already, and `OSError` when the kernel is short of memory.
        """
        try:
            channel = Channel(handle.as_socket())
            while True:
                random = int.from_bytes(self.random.take(_KOID_RANDOM_BITS // 8), "big")
                koid = next(self._koids) << _KOID_RANDOM_BITS | random
                try:
                    channel.bind(self._prefix + str(koid).encode())
                except OSError as error:
                    if error.errno == errno.EADDRINUSE:
                        continue
                    raise
                return koid, ServedChannel(handle.take_socket(), self.closing)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            what = describe(handle.fileno())
            raise Refused(f"the server end, {what}, can't be named: {error}") from None

    def connect(self, channel: Channel, server: Server, account: Account) -> Connection:
        """Have a channel served, which the connection then owns, at the expense of `account`."""
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
        """Make a collection whose root is served on `channel`. `charge`, for it, is closed when it has ended."""
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
                # The tree only knows what it needs of them.
                cast("Buffers", collection.buffers).when_gone(partial(self._forget_buffers, id))

    def _forget_buffers(self, id: int) -> None:
        del self.lingering[id]
        del self.parties[id]

    # --- reasons ------------------------------------------------------------------------------------------------------

    def may_name_others(self, node: NodeData, account: Account) -> bool:
        """Return whether a participant may learn what others asked for and did (`[inspect] to_participants`)."""
        match self.inspect.to_participants:
            case "same-user":
                return account.user.uid == 0 or len(self.parties[node.collection.id].uids) == 1
            case others:
                return others == "all"

    def explain(self, connection: Connection, reason: Reason) -> None:
        """Tell a client that asked for it why an answer with an error, or the end of its channel, follows."""
        report = None
        if connection.explained and reason.report is not None:
            with contextlib.suppress(OSError):  # the line is better than nothing
                report = self._document(reason.report).open()
        connection.explain(reason.error, reason.line, report)

    def _document(self, text: str) -> Document:
        """Return a report as a document, which is kept for the others who get it in this turn."""
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
        """Tell the client of a server end why nothing will serve it.

        The handle stays the caller's, who closes it and does not shut the end down: a client may have kept a duplicate,
        with which the pair can be used again.
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

        Connections to services and unread answers are the reactor's to close.
        """
        self.meetings.close()
        self._drop_report()
        for collection in list(self.collections.values()):
            collection.shut_down()

    def find_token(self, client_end: Handle) -> Token | None:
        """Return the token whose client end this is, once everything sent on it before has been processed.

        None for whatever isn't the client end of a live, un-bound token. The handle stays the caller's.

        The token's channel is read also during an attempt to allocate. A token is never part of what is being
        allocated, but of what waits, attached, for its own attempt; so nothing that was sent on it changes the attempt.
        It happens as if it had come before the attempt, and no client can know better: it came on other channels than
        what began the attempt.
        """
        try:
            channel = Channel(client_end.as_socket())
            server = self._named(channel.peer_name())
            if server is None:
                return None
            nonce = self.random.take(_NONCE_BYTES)
            for _ in range(_NONCE_ATTEMPTS):
                if channel.send(nonce):
                    return server if server.connection.receive_until(nonce) else None
                server.connection.receive_until(None)  # the queue is full
                if client_end.closed:
                    return None  # its owner went on while others were served
            return None
        except OSError:
            return None  # the token has closed meanwhile, or the end can't be sent on

    def check_client_end(self, client_end: Handle) -> None:
        """Raise :class:`Refused` if what was sent as a token can't be the client end of any channel."""
        if not is_kind(client_end.fileno(), HandleKind.CLIENT_END):
            raise Refused(flaw_of("token", client_end, HandleKind.CLIENT_END))

    def koid_of(self, client_end: Handle) -> int | None:
        """Return the number of the server end at the other side, if that is one of this daemon's."""
        return self._koid(Channel(client_end.as_socket()).peer_name())

    def why_unknown(self, client_end: Handle) -> str:
        """Return what may be the reason why :meth:`find_token` finds nothing."""
        channel = Channel(client_end.as_socket())
        if channel.hung_up():
            return "its node has failed, or it was turned in before"
        if channel.peer_name().startswith(self._prefix):
            return "it is the client end of something else than a token"
        return (
            "it never was a token of this daemon's, or whoever made it hasn't waited for a Sync "
            "before giving it away"
        )

    def is_to_come(self, client_end: Handle) -> bool:
        """Return whether this can be the client end of a token whose other end is still on its way to the daemon."""
        channel = Channel(client_end.as_socket())
        return not channel.peer_name() and not channel.hung_up()

    def _named(self, name: bytes) -> Token | None:
        koid = self._koid(name)
        return None if koid is None else self.tokens.get(koid)

    @property
    def name_prefix(self) -> bytes:
        """How the names of all server ends begin; a koid follows."""
        return self._prefix

    def _koid(self, name: bytes) -> int | None:
        koid = name.removeprefix(self._prefix)
        return int(koid) if koid != name and koid.isdigit() else None
