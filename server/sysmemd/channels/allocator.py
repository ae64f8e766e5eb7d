"""The Allocator as clients see it: where collections begin, tokens are turned in and VMOs are recognised."""

from __future__ import annotations

from typing import ClassVar

from sysmem_protocol import sysmem2
from sysmem_protocol.channel import Channel
from sysmem_protocol.library import Interface
from sysmem_protocol.sysmem2 import Error

from ..constraints import check_constraints, settings_match
from ..memory import NoMoreStrongHandlesError
from ..ports import ClientInfo, NoMemoryError
from ..tree import LogicalBufferCollection, Misuse
from .connection import Connection
from .nodes import CollectionServer, NodeServer, TokenServer, client_info
from .service import Service


class AllocatorServer:
    """One connection to the service. It ends without an effect on what was made through it."""

    interface: ClassVar[type[Interface]] = sysmem2.Allocator

    def __init__(self, service: Service, channel: Channel, uid: int) -> None:
        """Become the owner of `channel`, just accepted from a process of the user `uid`."""
        self._service = service
        self._uid = uid
        self._client: ClientInfo | None = None
        self.log = service.log.bind(channel=self.interface.__name__)
        self.connection: Connection = service.connect(channel, self, self.log)

    # --- the connection's server ---

    def expect_message(self) -> None:
        pass

    def refuse(self, reason: str) -> None:
        self.log.warning("a client broke the protocol", client=str(self._client), reason=reason)
        self.connection.close()

    def peer_closed(self) -> None:
        self.connection.close()

    # --- Allocator ---

    def set_debug_client_info(self, request: sysmem2.SetDebugClientInfoRequest) -> None:
        self._client = client_info(request)

    def allocate_shared_collection(
        self, request: sysmem2.AllocatorAllocateSharedCollectionRequest
    ) -> None:
        assert request.token_request is not None
        self._make_collection(TokenServer(self._service, request.token_request))

    def allocate_non_shared_collection(
        self, request: sysmem2.AllocatorAllocateNonSharedCollectionRequest
    ) -> None:
        assert request.collection_request is not None
        server = CollectionServer(self._service, request.collection_request)
        self._make_collection(server)
        server.node.bind(server, None)
        self._service.say_if_advisory(self._uid)

    def _make_collection(self, server: NodeServer) -> None:
        service = self._service
        collection = LogicalBufferCollection(
            next(service.collection_ids),
            channel=server,
            client=self._client or ClientInfo(),
            platform=service.platform,
            memory=service.memory,
            clock=service.clock,
            log=service.log,
            max_group_selections=service.limits.max_group_selections,
        )
        server.node = collection.root

    def bind_shared_collection(self, request: sysmem2.AllocatorBindSharedCollectionRequest) -> None:
        assert request.token is not None
        assert request.buffer_collection_request is not None
        token = self._service.find_token(request.token)
        if token is None:
            self.log.warning(
                "a token to bind is unknown",
                client=str(self._client),
                reason="it never was a token, was turned in before, has failed, or whoever made it hasn't "
                "waited for a Sync before giving it away",
            )
            return
        collection = CollectionServer(self._service, request.buffer_collection_request)
        self._service.say_if_advisory(self._uid)
        try:
            token.turn_in(collection, self._client)
        except Misuse as error:
            collection.discard()
            token.refuse(f"BindSharedCollection: {error}")

    def validate_buffer_collection_token(
        self, request: sysmem2.AllocatorValidateBufferCollectionTokenRequest
    ) -> sysmem2.AllocatorValidateBufferCollectionTokenResponse:
        return sysmem2.AllocatorValidateBufferCollectionTokenResponse(
            is_known=request.token_server_koid in self._service.tokens
        )

    def get_vmo_info(self, request: sysmem2.AllocatorGetVmoInfoRequest) -> sysmem2.VmoInfo | Error:
        try:
            return self._vmo_info(request)
        except NoMoreStrongHandlesError:
            return Error.NO_MORE_STRONG_VMO_HANDLES
        except (NoMemoryError, OSError) as error:
            self.log.error("GetVmoInfo failed", client=str(self._client), reason=str(error))
            return Error.UNSPECIFIED

    def _vmo_info(self, request: sysmem2.AllocatorGetVmoInfoRequest) -> sysmem2.VmoInfo | Error:
        assert request.vmo is not None
        known = self._service.memory.identify(request.vmo.fileno())
        if known is None:
            return Error.NOT_FOUND
        info = sysmem2.VmoInfo(
            buffer_collection_id=known.collection_id, buffer_index=known.buffer_index
        )
        if request.vmo_settings_to_check is not None:
            other = self._service.memory.identify(request.vmo_settings_to_check.fileno())
            if other is None:
                return Error.NOT_FOUND
            info.vmo_settings_match = settings_match(
                known.settings,
                other.settings,
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
            delivered = known.make_weak(self._client or ClientInfo())
            info.weak_vmo = delivered.vmo
            info.close_weak_asap = delivered.close_weak_asap
        elif known.is_weak:
            info.close_weak_asap = known.close_weak_asap()
        return info
