"""The server of Allocator connections: creates collections, turns tokens in, and identifies VMOs."""

from __future__ import annotations

from contextlib import ExitStack, closing
from functools import partial
from typing import Any, ClassVar, cast

from sysmem_protocol import explained, sysmem2
from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Interface
from sysmem_protocol.sysmem2 import Error

from ..constraints import check_constraints, settings_match
from ..memory import HandleInfo, NoMoreStrongHandlesError
from ..ports import ClientInfo, NoMemoryError, Peer
from ..quota import Exceeded, Kind
from ..tree import Misuse
from ..users import Charge, OverLimitError
from .collection import CollectionServer
from .connection import Connection
from .errors import Failed
from .nodes import NodeServer, S, TokenServer, adopt, client_info, discard
from .server import Unattached
from .service import Service


class AllocatorServer(Unattached):
    """One connection to the service. Its end has no effect on the nodes that were created through it."""

    interface: ClassVar[type[Interface]] = explained.Allocator

    def __init__(self, service: Service, channel: Channel, peer: Peer) -> None:
        """Take ownership of `channel`, just accepted from the process `peer`.

        Raises :class:`.Exceeded` if that user has the maximum number of connections. In that case it owns nothing.
        """
        self._service = service
        self._client: ClientInfo | None = None
        self.account = service.users.open_account(peer)
        self.connection: Connection = service.connect(channel, self, self.account)

    # --- interface for the connection ---

    def about(self) -> dict[str, Any]:
        client = self._client or ClientInfo()
        return {
            "channel": self.interface.__name__,
            "client_name": client.name,
            "client_id": client.id,
        }

    def refuse(self, reason: str) -> None:
        self._service.log.error(
            "an Allocator channel was closed because of an error", reason=reason, **self.about()
        )
        self.connection.explain(None, reason)
        self.connection.close()

    def failed(self, reason: str) -> None:
        self.refuse(f"the daemon failed: {reason}")

    def exceeded(self, error: Exceeded) -> None:
        """Do nothing: the server end in the request is already closed, and the Allocator continues."""

    def peer_closed(self) -> None:
        self.connection.close()

    # --- Allocator ---

    def set_explain(self, request: explained.ExplainedSetExplainRequest) -> None:
        self.connection.explained = bool(request.explain)

    def set_debug_client_info(self, request: sysmem2.SetDebugClientInfoRequest) -> None:
        self._client = client_info(request)

    def allocate_shared_collection(
        self, request: sysmem2.AllocatorAllocateSharedCollectionRequest
    ) -> None:
        assert request.token_request is not None
        self._make_collection(self._server(TokenServer, request.token_request))

    def allocate_non_shared_collection(
        self, request: sysmem2.AllocatorAllocateNonSharedCollectionRequest
    ) -> None:
        assert request.collection_request is not None
        server = self._server(CollectionServer, request.collection_request)
        self._make_collection(server)
        server.node.bind(server, None)
        self._service.say_if_advisory(self.account.user.uid)

    def _make_collection(self, server: NodeServer) -> None:
        with ExitStack() as undo:
            undo.push(partial(discard, [server]))
            charge = undo.enter_context(closing(self.account.charge(Kind.COLLECTIONS)))
            adopt(
                server,
                lambda: self._service.new_collection(server, self._client, charge).root,
            )
            undo.pop_all()

    def _server(self, kind: type[S], server_end: Handle) -> S:
        """Create the server of a node, charged to this connection's account."""
        explained = self.connection.explained
        made = kind(self._service, server_end, self.account, explained=explained)
        made.made_by = self.connection.number
        return made

    def bind_shared_collection(self, request: sysmem2.AllocatorBindSharedCollectionRequest) -> None:
        assert request.token is not None
        assert request.buffer_collection_request is not None
        token = self._service.find_token(request.token)
        if token is None:
            self._service.check_client_end(request.token)
            reason = self._service.why_unknown(request.token)
            self._service.log.warning(
                "BindSharedCollection failed: the token is unknown", reason=reason, **self.about()
            )
            if self.connection.explained:
                line = f"the token to bind is unknown: {reason}"
                self._service.tell_unserved(request.buffer_collection_request, line)
            return
        collection = self._server(CollectionServer, request.buffer_collection_request)
        self._service.say_if_advisory(self.account.user.uid)
        try:
            cast("Charge", token.node.charge).move(self.account)
            collection.serve(token.turn_in(collection, self._client, request.token))
        except Exceeded as error:
            self.account.say(error, self.about())
            collection.discard(str(error))
            token.connection.exceeded(error)
        except Misuse as error:
            reason = f"BindSharedCollection: {error}"
            collection.discard(reason)
            token.connection.refuse(reason)

    def validate_buffer_collection_token(
        self, request: sysmem2.AllocatorValidateBufferCollectionTokenRequest
    ) -> sysmem2.AllocatorValidateBufferCollectionTokenResponse:
        return sysmem2.AllocatorValidateBufferCollectionTokenResponse(
            is_known=request.token_server_koid in self._service.tokens
        )

    def get_vmo_info(self, request: sysmem2.AllocatorGetVmoInfoRequest) -> sysmem2.VmoInfo:
        assert request.vmo is not None
        try:
            return self._vmo_info(request, request.vmo)
        except Failed:
            raise
        except NoMoreStrongHandlesError as error:
            raise Failed(Error.NO_MORE_STRONG_VMO_HANDLES, str(error)) from None
        except Exception as error:
            if isinstance(error, OverLimitError):
                self.account.say(error.exceeded, self.about())
            unforeseen = not isinstance(error, (NoMemoryError, OSError))
            self._service.log.error(
                "GetVmoInfo failed", reason=repr(error), exc_info=unforeseen, **self.about()
            )
            raise Failed(Error.UNSPECIFIED, f"the daemon failed: {error!r}") from None

    def _vmo_info(
        self, request: sysmem2.AllocatorGetVmoInfoRequest, vmo: Handle
    ) -> sysmem2.VmoInfo:
        known = self._known(vmo, "vmo")
        info = sysmem2.VmoInfo(
            buffer_collection_id=known.collection_id, buffer_index=known.buffer_index
        )
        if request.vmo_settings_to_check is not None:
            info.vmo_settings_match = settings_match(
                known.settings,
                self._known(request.vmo_settings_to_check, "vmo_settings_to_check").settings,
                ignore_size=bool(request.vmo_settings_to_check_ignore_size),
            )
        if request.constraints_to_check is not None:
            refusal = check_constraints(
                request.constraints_to_check, known.settings, self._service.platform
            )
            info.constraints_ok = refusal is None
        if request.need_single_buffer_settings:
            info.single_buffer_settings = known.settings
        if request.need_weak:
            delivered = known.make_weak(self._client or ClientInfo(), self.account)
            info.weak_vmo = delivered.vmo
            info.close_weak_asap = delivered.close_weak_asap
        elif known.is_weak:
            info.close_weak_asap = known.close_weak_asap(self.account)
        return info

    def _known(self, vmo: Handle, field: str) -> HandleInfo:
        known = self._service.memory.identify(vmo.fileno())
        if known is None:
            raise Failed(Error.NOT_FOUND, f"$.{field} is not a VMO of this daemon")
        return known
