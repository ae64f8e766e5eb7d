"""Users of the daemon: their turns, and the accounts that are charged.

See `docs/spec/robustness.md`, "Who pays" and "Fair turns".
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol
from weakref import WeakValueDictionary

from .ports import Clock, NoMemoryError, Peer
from .quota import Exceeded, Kind, Limits, Share, Tally, check
from .refusals import Refusals


class OverLimitError(NoMemoryError):
    """The user is over its quota of buffers, or of descriptors for them."""

    def __init__(self, exceeded: Exceeded) -> None:
        super().__init__(str(exceeded))
        self.exceeded = exceeded


class Queue(Protocol):
    """The queue of unsent responses of one channel."""

    @property
    def waiting_bytes(self) -> int:
        """The number of queued bytes; a descriptor counts as a number of bytes."""

    @property
    def waiting_descriptors(self) -> int:
        """The number of queued descriptors."""

    def overflow(self, error: Exceeded) -> None:
        """End the channel because too much is queued."""


class User:
    """A user of this machine that has resources in the daemon.

    There is one object for each uid, so it can be compared by identity and used as a key. It exists as long as
    something refers to it: a connection, a node, or a buffer that is still held after its tree. Turns rotate among
    users. The total of all accounts of a user is counted here.
    """

    __slots__ = ("__weakref__", "in_flight", "limits", "tally", "uid")

    def __init__(self, uid: int, limits: Limits, in_flight: Share) -> None:
        """`in_flight` is the share that counts for all users."""
        self.uid = uid
        self.limits = limits
        self.tally = Tally()
        #: Descriptors that were sent to clients of this user and not received yet.
        self.in_flight = Share(in_flight)


class Account:
    """The account that is charged for a channel and everything created through it; a :class:`.ports.Payer`.

    There is one object for each connection to a service socket. The channel of that connection has it, and so has
    every node that is created or turned in through it. A child has the account that its parent has when the child is
    created. The resources of one connection are counted here, as a part of its user's.
    """

    __slots__ = (
        "_clock",
        "_connection",
        "_queues",
        "_refusals",
        "_shedding",
        "in_flight",
        "peer",
        "tally",
        "user",
    )

    def __init__(self, user: User, peer: Peer, refusals: Refusals, clock: Clock) -> None:
        """Charge `user` for the connection from `peer`. Raises :class:`.Exceeded`, after it was logged."""
        self.user = user
        #: The process that connected.
        self.peer = peer
        self.tally = Tally()
        self.in_flight = Share(user.in_flight)
        self._refusals = refusals
        #: The queues that are not empty.
        self._queues: set[Queue] = set()
        self._clock = clock
        self._shedding = False
        try:
            self._connection: Charge | None = self.charge(Kind.CONNECTIONS)
        except Exceeded as error:
            self.say(error, {"pid": peer.pid})
            raise

    def take_connection(self) -> Charge | None:
        """Return the charge for the connection itself, once: to the channel of that connection."""
        charge, self._connection = self._connection, None
        return charge

    def charge(self, kind: Kind, amount: int = 1) -> Charge:
        """Count more of a kind until the returned charge is closed. Raises :class:`.Exceeded` without counting."""
        user = self.user
        check(kind, amount, connection=self.tally, user=user.tally, limits=user.limits)
        self.tally.add(kind, amount)
        user.tally.add(kind, amount)
        return Charge(self, kind, amount)

    def add(self, kind: Kind, amount: int) -> None:
        """Add to the count of a kind, whatever the limits. `amount` may be negative."""
        self.tally.add(kind, amount)
        self.user.tally.add(kind, amount)

    def say(self, error: Exceeded, about: Mapping[str, Any]) -> None:
        """Log a refusal; `about` has the fields about the client."""
        fields = dict(about)
        if error.share < error.limit:
            fields["share"] = error.share
        self._refusals.say(
            "a user's quota is exhausted",
            self.user.uid,
            limit=error.kind.value,
            value=error.limit,
            **{"client_name": "", "client_id": 0, **fields},
        )

    # --- buffers ------------------------------------------------------------------------------------------------------

    def pay_for_buffer(self, size: int) -> Callable[[], None]:
        """See :class:`.ports.Payer`."""
        try:
            buffer = self.charge(Kind.BUFFERS)
            try:
                memory = self.charge(Kind.BYTES, size)
            except Exceeded:
                buffer.close()
                raise
        except Exceeded as error:
            raise OverLimitError(error) from None

        def gone() -> None:
            buffer.close()
            memory.close()

        return gone

    def pay_for_descriptor(self) -> Callable[[], None]:
        """See :class:`.ports.Payer`."""
        try:
            return self.charge(Kind.DESCRIPTORS).close
        except Exceeded as error:
            raise OverLimitError(error) from None

    def keep_descriptor(self) -> Callable[[], None]:
        """Count a descriptor that must stay open, whatever the limit, until the returned function is called."""
        self.add(Kind.DESCRIPTORS, 1)
        return Charge(self, Kind.DESCRIPTORS, 1).close

    # --- queued responses ---------------------------------------------------------------------------------------------

    def say_in_flight(self, about: Mapping[str, Any]) -> None:
        """Log that a response waits because too many descriptors are in flight."""
        self._refusals.say(
            "a response waits until the user has received earlier descriptors",
            self.user.uid,
            limit="in_flight",
            value=self.user.in_flight.count + self.user.in_flight.room(),
            in_flight=self.user.in_flight.count,
            in_flight_to_connection=self.in_flight.count,
            **{"client_name": "", "client_id": 0, **about},
        )

    def queue(self, queue: Queue, size: int, descriptors: int) -> None:
        """Add to the counts of queued bytes and descriptors of a queue. The numbers may be negative.

        If the total is too large, the channel of this connection with the largest queue ends soon.
        """
        self.add(Kind.QUEUED_BYTES, size)
        if descriptors:
            self.add(Kind.DESCRIPTORS, descriptors)
        if queue.waiting_bytes:
            self._queues.add(queue)
        else:
            self._queues.discard(queue)
        if self._shedding:
            return
        if (size > 0 and self._excess(Kind.QUEUED_BYTES)) or (
            descriptors > 0 and self._excess(Kind.DESCRIPTORS)
        ):
            # The tree may be in the middle of a change, so do it later.
            self._shedding = True
            self._clock.call_at(self._clock.now(), self._shed)

    def _shed(self) -> None:
        self._shedding = False
        waiting: dict[Kind, Callable[[Queue], int]] = {
            Kind.QUEUED_BYTES: lambda queue: queue.waiting_bytes,
            Kind.DESCRIPTORS: lambda queue: queue.waiting_descriptors,
        }
        for kind, how_much in waiting.items():
            while self._queues and (error := self._excess(kind)):
                fullest = max(self._queues, key=how_much)
                if not how_much(fullest):
                    break
                fullest.overflow(error)

    def _excess(self, kind: Kind) -> Exceeded | None:
        user = self.user
        try:
            check(kind, 0, connection=self.tally, user=user.tally, limits=user.limits)
        except Exceeded as error:
            return error
        return None


class Charge:
    """The charge to an account for one object, until that is gone."""

    __slots__ = ("_amount", "_kind", "account")

    def __init__(self, account: Account, kind: Kind, amount: int) -> None:
        """Called by :meth:`Account.charge`."""
        self.account = account
        self._kind = kind
        self._amount = amount

    def close(self) -> None:
        """End the charge. Idempotent."""
        self.account.add(self._kind, -self._amount)
        self._amount = 0

    def move(self, account: Account) -> None:
        """Charge another account from now on. Raises :class:`.Exceeded` without any change."""
        self.account.add(
            self._kind, -self._amount
        )  # it is not counted twice if both belong to one user
        try:
            account.charge(self._kind, self._amount)
        except Exceeded:
            self.account.add(self._kind, self._amount)
            raise
        self.account = account


class Users:
    """All users that have resources in the daemon, by uid."""

    def __init__(self, refusals: Refusals, clock: Clock, in_flight: Share | None = None) -> None:
        """`in_flight` counts the descriptors in flight to all users; without it there is no limit."""
        self._refusals = refusals
        self._clock = clock
        self._in_flight = in_flight or Share(limit=sys.maxsize)
        self._users: WeakValueDictionary[int, User] = WeakValueDictionary()
        self._limits: Limits = {}
        self._limits_by_uid: Mapping[int, Limits] = {}

    def __iter__(self) -> Iterator[User]:
        """Iterate over the users that have resources."""
        return iter(list(self._users.values()))

    def limit(self, limits: Limits, by_uid: Mapping[int, Limits]) -> None:
        """Set the limits of users from now on. Existing resources are not affected.

        `by_uid` has the limits of users with limits of their own.
        """
        self._limits, self._limits_by_uid = limits, by_uid
        for user in self:
            user.limits = self.limits_of(user.uid)

    def open_account(self, peer: Peer) -> Account:
        """Return the account of a new connection from the process `peer`, which is charged for the connection.

        Raises :class:`.Exceeded` after logging it.
        """
        user = self._users.get(peer.uid)
        if user is None:
            user = self._users[peer.uid] = User(peer.uid, self.limits_of(peer.uid), self._in_flight)
        return Account(user, peer, self._refusals, self._clock)

    def limits_of(self, uid: int) -> Limits:
        """Return the limits of a user."""
        return self._limits_by_uid.get(uid, self._limits)
