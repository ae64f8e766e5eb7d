"""Offers of tokens, and clients that wait to take one, of all Rendezvous connections.

Offers and takers are matched by name and by the user that the token is for. At most one side of a pair waits, because
possible matches are made before the next message is processed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol, TypeAlias

from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Method
from sysmem_protocol.rendezvous import RendezvousTakeResponse
from sysmem_protocol.sysmem2 import Error

from ..pause import give_way
from ..ports import Closeable
from ..text import printable
from .answering import Answering
from .deferred import Deferred
from .errors import Failed

#: Why a token that the daemon has seen can no longer be turned in.
TOKEN_GONE: Final = "its node has failed, or it was turned in before"
#: The name, and the user that the token is for.
Key: TypeAlias = tuple[str, int]


class Token(Protocol):
    """A token that can be turned in. `watchers` are called when it no longer can be."""

    watchers: set[Callable[[], None]]


class Offer(Deferred):
    """The response to an Offer. It is sent when the token was taken, or can no longer be taken."""

    def __init__(
        self,
        meetings: Meetings,
        key: Key,
        from_uid: int,
        client_end: Handle,
        token: Token | None,
        charge: Closeable,
    ) -> None:
        """Take ownership of `client_end`. `token` is its token, or None if the daemon has not seen that yet.

        `charge` is closed with the offer.
        """
        super().__init__()
        self.key = key
        self.from_uid = from_uid
        self.client_end = client_end
        self._charge = charge
        self._meetings = meetings
        self._token: Token | None = None
        self._watch(token)

    def bind(self, connection: Answering, method: Method, txid: int) -> None:
        """See :class:`.Deferred`."""
        super().bind(connection, method, txid)
        self.connection = connection
        if connection.reading:
            self._meetings.add_offer(self)
        else:
            self.end()

    def can_be_taken(self) -> bool:
        """Return whether the offering client still waits, and the token can be turned in; otherwise end the offer.

        Other clients may be served meanwhile, and end the offer.
        """
        if self._token is None:
            token = self._meetings.find_token(self.client_end)
            if self.client_end.closed:
                return False
            self._watch(token)
            if token is None:
                self._lost()
                return False
        if self.gone:
            self.end()
            return False
        return True

    def end(self) -> None:
        """Withdraw the offer, and close the client end. Idempotent."""
        if self._token is not None:
            self._token.watchers.discard(self._lost)
        self._meetings.remove_offer(self)
        self.client_end.close()
        self._charge.close()

    def _watch(self, token: Token | None) -> None:
        self._token = token
        if token is not None:
            token.watchers.add(self._lost)

    def _lost(self) -> None:
        """Tell the offering client that its token can no longer be used. The tree may be in the middle of a change."""
        # The server end of a token that was known may still be open.
        known = self._token is not None
        why = TOKEN_GONE if known else self._meetings.why_unknown(self.client_end)
        self.end()
        self.fail(unknown_token(why))


class Take(Deferred):
    """The response to a Take: a token."""

    def __init__(self, meetings: Meetings, key: Key) -> None:
        super().__init__()
        self.key = key
        self._meetings = meetings

    def bind(self, connection: Answering, method: Method, txid: int) -> None:
        """See :class:`.Deferred`."""
        super().bind(connection, method, txid)
        self.connection = connection
        if connection.reading:
            self._meetings.add_take(self)

    def deliver(self, client_end: Handle) -> bool:
        """Answer with a duplicate of `client_end`. Return False if the client is gone or cannot be answered."""
        try:
            given = client_end.duplicate()
        except OSError as error:
            self.connection.fail(f"the daemon can't pass the token on: {error}")
            return False
        return self.answer(RendezvousTakeResponse(token=given))

    def end(self) -> None:
        """Stop waiting. Idempotent."""
        self._meetings.remove_take(self)


def unknown_token(why: str) -> Failed:
    """Return the error for an offered object that is not a token that can be turned in."""
    return Failed(Error.NOT_FOUND, f"the token can't be turned in: {why}")


class Meetings:
    """All offers and all waiting takers."""

    def __init__(
        self, find_token: Callable[[Handle], Token | None], why_unknown: Callable[[Handle], str]
    ) -> None:
        """`find_token` returns the token with this client end, or None if it cannot be turned in.

        Other clients may be served before it returns. `why_unknown` returns the reason of a None.
        """
        self.find_token = find_token
        self.why_unknown = why_unknown
        #: By offering user: at most one offer of each, oldest first.
        self._offers: dict[Key, dict[int, Offer]] = {}
        #: The taker that has waited longest is first.
        self._takes: dict[Key, OrderedDict[Take, None]] = {}
        self._calls: dict[Answering, set[Offer | Take]] = {}

    def check_free(self, key: Key, from_uid: int) -> None:
        """Raise :class:`Failed` if a user already offers a token to the same user under this name."""
        rival = self._offers.get(key, {}).get(from_uid)
        if rival is None:
            return
        if not rival.gone:
            name, to_uid = key
            raise Failed(
                Error.HANDLE_ACCESS_DENIED,
                f"user {from_uid} already offers a token to user {to_uid} as '{printable(name)}'",
            )
        rival.end()

    def add_offer(self, offer: Offer) -> None:
        """Give the token to a waiting taker, or keep the offer until one comes."""
        self._offers.setdefault(offer.key, {})[offer.from_uid] = offer
        self._calls.setdefault(offer.connection, set()).add(offer)
        self._meet(offer.key)

    def add_take(self, take: Take) -> None:
        """Give the oldest offer to a client, or let it wait."""
        self._takes.setdefault(take.key, OrderedDict())[take] = None
        self._calls.setdefault(take.connection, set()).add(take)
        self._meet(take.key)

    def remove_offer(self, offer: Offer) -> None:
        """Remove an offer. Idempotent."""
        offers = self._offers.get(offer.key)
        if offers and offers.get(offer.from_uid) is offer:
            del offers[offer.from_uid]
            if not offers:
                del self._offers[offer.key]
            self._remove(offer)

    def remove_take(self, take: Take) -> None:
        """Remove a waiting client. Idempotent."""
        takes = self._takes.get(take.key)
        if takes and take in takes:
            del takes[take]
            if not takes:
                del self._takes[take.key]
            self._remove(take)

    def leave(self, connection: Answering) -> None:
        """End all offers and takes of a connection."""
        for call in tuple(self._calls.get(connection, ())):
            call.end()

    def close(self) -> None:
        """End all offers and takes."""
        for connection in tuple(self._calls):
            self.leave(connection)

    def _remove(self, call: Offer | Take) -> None:
        calls = self._calls[call.connection]
        calls.remove(call)
        if not calls:
            del self._calls[call.connection]

    def _meet(self, key: Key) -> None:
        while (offers := self._offers.get(key)) and key in self._takes:
            offer = next(iter(offers.values()))
            if offer.can_be_taken() and (takes := self._takes.get(key)):
                self._hand_over(offer, next(iter(takes)))
            give_way()  # there may be many offers whose clients have left

    @staticmethod
    def _hand_over(offer: Offer, take: Take) -> None:
        # The taker may have closed or shut down its end, so that nothing can be sent to it. Then the offer goes to the
        # next taker. The offering client, whose end was just checked, is told only after a delivery.
        delivered = take.deliver(offer.client_end)
        take.end()
        if delivered:
            offer.end()
            offer.answer(None)
