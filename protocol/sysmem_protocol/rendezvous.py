"""The `Rendezvous` protocol of the library `sysmem`: a meeting place for processes that share nothing but the daemon.

One process offers a token under a name, another one takes it (`docs/spec/client-api.md`, "Passing tokens").
"""

from __future__ import annotations

from typing import Annotated

from .handles import Handle
from .library import (
    UINT32,
    Field,
    HandleKind,
    HandleType,
    Interface,
    Method,
    String,
    Table,
    table,
)

#: Bytes of the name under which a token is offered; a path, or some words and a random number, fit.
MAX_OFFER_NAME_BYTES = 256

_NAME = String(MAX_OFFER_NAME_BYTES)
_TOKEN = HandleType(HandleKind.CLIENT_END, "BufferCollectionToken")


@table
class RendezvousOfferRequest(Table):
    """A token on offer."""

    name: Annotated[str | None, Field(1, _NAME, required=True)] = None
    """The name to offer the token under, at most 256 bytes of UTF-8. Both processes must know it."""
    token: Annotated[Handle | None, Field(2, _TOKEN, required=True)] = None
    """The client end of the token's channel."""
    to_uid: Annotated[int | None, Field(3, UINT32)] = None
    """The number of the user who may take the token. Un-set is the offering user's own."""


@table
class RendezvousTakeRequest(Table):
    """A token that is asked for."""

    name: Annotated[str | None, Field(1, _NAME, required=True)] = None
    """The name that the token is offered under."""


@table
class RendezvousTakeResponse(Table):
    """A token that was on offer."""

    token: Annotated[Handle | None, Field(1, _TOKEN)] = None
    """The client end of the token's channel."""


class Rendezvous(Interface, library="sysmem"):
    """Where a token is passed on to a process that is known by a name only.

    The kernel says which user is at the other end of each connection. A token is taken by the user to whom it is
    offered and by nobody else: root is a user like any other here. An offer that was not taken yet ends with its
    connection, and the token's client end that came with it is closed.
    """

    offer = Method(
        "Offer a token under a name to the user `to_uid`, or to the own user when that is un-set. The answer comes "
        "once the token was taken. Errors: HANDLE_ACCESS_DENIED, at once, when this user offers another token to the "
        "same user under this name already; NOT_FOUND when the token can't be turned in, or can't any more while it "
        "is on offer: the daemon does not know it, it was turned in, or its node has failed.",
        RendezvousOfferRequest,
        fallible=True,
    )
    take = Method(
        "Take a token that is offered under a name to the user who asks. The answer comes when there is one. Offers "
        "and takers are served in the order in which they came.",
        RendezvousTakeRequest,
        RendezvousTakeResponse,
    )
