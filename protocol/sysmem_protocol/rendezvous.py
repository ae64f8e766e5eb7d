"""The `Rendezvous` protocol of the library `sysmem`, for processes that share nothing but the daemon.

One process offers a token under a name, and another one takes it (`docs/spec/client-api.md`, "Passing tokens").
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

#: The maximum length of an offer's name in bytes: a path, or some words and a random number, fit.
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
    """The number of the user who may take the token. Un-set means the offering user."""


@table
class RendezvousTakeRequest(Table):
    """The name of a token."""

    name: Annotated[str | None, Field(1, _NAME, required=True)] = None
    """The name that the token is offered under."""


@table
class RendezvousTakeResponse(Table):
    """A token that was on offer."""

    token: Annotated[Handle | None, Field(1, _TOKEN)] = None
    """The client end of the token's channel."""


class Rendezvous(Interface, library="sysmem"):
    """Passes a token to a process that is only known by a name.

    The kernel identifies the user at the other end of each connection. Only the user to whom a token is offered can
    take it; root is a user like any other here. An offer that has not been taken ends with its connection, and the
    token's client end in it is closed.
    """

    offer = Method(
        "Offer a token under a name to the user `to_uid`, or to the own user if that is un-set. The response is "
        "sent when the token was taken. Errors: HANDLE_ACCESS_DENIED, immediately, if this user already offers "
        "another token to the same user under this name; NOT_FOUND if the token can't be turned in, now or later "
        "while it is on offer: the daemon does not know it, it was turned in, or its node has failed.",
        RendezvousOfferRequest,
        fallible=True,
    )
    take = Method(
        "Take a token that is offered under a name to the calling user. The response is sent when there is one. "
        "Offers and takers are served in the order of their arrival.",
        RendezvousTakeRequest,
        RendezvousTakeResponse,
    )
