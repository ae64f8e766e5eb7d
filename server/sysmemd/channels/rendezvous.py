"""The server of Rendezvous connections: tokens are offered under a name, and taken by the users that they are for."""

from __future__ import annotations

from typing import Any, ClassVar

from sysmem_protocol import rendezvous
from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Interface

from ..ports import Peer
from ..quota import Exceeded, Kind
from .connection import Connection
from .meetings import Key, Offer, Take, unknown_token
from .server import Unattached, unnamed
from .service import Service


class RendezvousServer(Unattached):
    """One connection to the service. Its offers and takes end with it."""

    interface: ClassVar[type[Interface]] = rendezvous.Rendezvous

    def __init__(self, service: Service, channel: Channel, peer: Peer) -> None:
        """Take ownership of `channel`, just accepted from the process `peer`.

        Raises :class:`.Exceeded` if that user has the maximum number of connections. In that case it owns nothing.
        """
        self._service = service
        self._peer = peer
        self._account = service.users.open_account(peer)
        self.connection: Connection = service.connect(channel, self, self._account)

    # --- interface for the connection ---

    def about(self) -> dict[str, Any]:
        return {**unnamed(self.interface, self._peer.pid), "user": self._peer.uid}

    def refuse(self, reason: str) -> None:
        self._service.log.error(
            "a Rendezvous channel was closed because of an error", reason=reason, **self.about()
        )
        self.peer_closed()

    def failed(self, reason: str) -> None:
        self.refuse(f"the daemon failed: {reason}")

    def exceeded(self, error: Exceeded) -> None:
        self.connection.refuse(str(error))

    def peer_closed(self) -> None:
        self._service.meetings.leave(self.connection)
        self.connection.close()

    # --- Rendezvous ---

    def offer(self, request: rendezvous.RendezvousOfferRequest) -> Offer:
        assert request.name is not None
        assert request.token is not None
        meetings, uid = self._service.meetings, self._peer.uid
        key = request.name, uid if request.to_uid is None else request.to_uid
        token = self._service.find_token(request.token)
        if token is None:
            self._service.check_client_end(request.token)
        if token is None and not self._service.is_to_come(request.token):
            raise unknown_token(self._service.why_unknown(request.token))
        meetings.check_free(key, uid)  # after the calls that may serve other clients
        charge = self._account.charge(Kind.DESCRIPTORS)
        self._say("a token is on offer", key)
        return Offer(meetings, key, uid, request.token.move(Handle), token, charge)

    def take(self, request: rendezvous.RendezvousTakeRequest) -> Take:
        assert request.name is not None
        key = request.name, self._peer.uid
        self._say("a token is awaited", key)
        return Take(self._service.meetings, key)

    def _say(self, event: str, key: Key) -> None:
        name, to_uid = key
        self._service.log.debug(event, name=name, to_user=to_uid, **self.about())
