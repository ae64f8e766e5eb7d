"""Offers of tokens and the clients that wait to take one, of all Rendezvous connections together.

Offers and takers meet by a name and the user whom the token is for. At most one side of such a pair waits: what can
meet has met before the next message is processed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol, TypeAlias

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

#: A name, and the user whom the token is for.
Key: TypeAlias = tuple[str, int]


class Token(Protocol):
    """A token that can be turned in. `watchers` are called when that is over."""

    watchers: set[Callable[[], None]]


class Offer(Deferred):
    """The answer to an Offer: it comes when the token was taken, or nobody can take it any more."""

    def __init__(
        self,
        meetings: Meetings,
        key: Key,
        from_uid: int,
        client_end: Handle,
        token: Token | None,
        charge: Closeable,
    ) -> None:
        """Become the owner of `client_end`; `token` is whose it is, None if the daemon has not seen that token yet.

        `charge` is closed with it.
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
        """Return whether the offering client still waits, and the token can be turned in; otherwise the offer ends.

        Others may be served meanwhile, and end it.
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
        """Stop offering, and close the client end. Idempotent."""
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
        """Tell the offering client that its token is of no use. The tree may be in the middle of a change."""
        why = self._meetings.why_unknown(self.client_end)
        self.end()
        self.fail(unknown_token(why))


class Take(Deferred):
    """The answer to a Take: a token."""

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
        """Answer with a duplicate of `client_end`. False if the client is gone or can't be answered."""
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
    """Return the error for what is offered and isn't a token that can be turned in."""
    return Failed(Error.NOT_FOUND, f"the token can't be turned in: {why}")


class Meetings:
    """Who offers and who waits."""

    def __init__(
        self, find_token: Callable[[Handle], Token | None], why_unknown: Callable[[Handle], str]
    ) -> None:
        """`find_token` returns the token whose client end a handle is, None if it can't be turned in.

        Others may be served before it returns. `why_unknown` says why it found nothing.
        """
        self.find_token = find_token
        self.why_unknown = why_unknown
        #: By the user who offers: at most one offer of each, the oldest first.
        self._offers: dict[Key, dict[int, Offer]] = {}
        #: Who waits longest is first.
        self._takes: dict[Key, OrderedDict[Take, None]] = {}
        self._calls: dict[Answering, set[Offer | Take]] = {}

    def check_free(self, key: Key, from_uid: int) -> None:
        """Raise :class:`Failed` if a user offers a token under this name to the same user already."""
        rival = self._offers.get(key, {}).get(from_uid)
        if rival is None:
            return
        if not rival.gone:
            name, to_uid = key
            raise Failed(
                Error.HANDLE_ACCESS_DENIED,
                f"user {from_uid} offers a token to user {to_uid} as '{printable(name)}' already",
            )
        rival.end()

    def add_offer(self, offer: Offer) -> None:
        """Offer a token to whoever waits for it, or comes."""
        self._offers.setdefault(offer.key, {})[offer.from_uid] = offer
        self._calls.setdefault(offer.connection, set()).add(offer)
        self._meet(offer.key)

    def add_take(self, take: Take) -> None:
        """Give the oldest offer to a client, or have it wait."""
        self._takes.setdefault(take.key, OrderedDict())[take] = None
        self._calls.setdefault(take.connection, set()).add(take)
        self._meet(take.key)

    def remove_offer(self, offer: Offer) -> None:
        """Forget an offer. Idempotent."""
        offers = self._offers.get(offer.key)
        if offers and offers.get(offer.from_uid) is offer:
            del offers[offer.from_uid]
            if not offers:
                del self._offers[offer.key]
            self._remove(offer)

    def remove_take(self, take: Take) -> None:
        """Forget a client that waits. Idempotent."""
        takes = self._takes.get(take.key)
        if takes and take in takes:
            del takes[take]
            if not takes:
                del self._takes[take.key]
            self._remove(take)

    def leave(self, connection: Answering) -> None:
        """End all that a connection offers and waits for."""
        for call in tuple(self._calls.get(connection, ())):
            call.end()

    def close(self) -> None:
        """End everything."""
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
            give_way()  # those who have left may be many

    @staticmethod
    def _hand_over(offer: Offer, take: Take) -> None:
        # The taker's end decides: a client that has closed it, or shut it down, can't be sent anything, and the offer
        # is the next one's. Only then is the offering client told, whose end was looked at just now.
        delivered = take.deliver(offer.client_end)
        take.end()
        if delivered:
            offer.end()
            offer.answer(None)
