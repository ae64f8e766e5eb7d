"""The Inspector as clients see it."""

from __future__ import annotations

from typing import Any, ClassVar

from sysmem_protocol import inspector
from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Interface

from ..channels import Connection
from ..channels.connection import Deferred, Failed
from ..ports import Peer
from ..quota import Exceeded
from .inspection import Inspection


class InspectorServer:
    """One connection to the service."""

    interface: ClassVar[type[Interface]] = inspector.Inspector

    def __init__(self, inspection: Inspection, channel: Channel, peer: Peer) -> None:
        """Become the owner of `channel`, just accepted from the process `peer`.

        Raises :class:`.Exceeded`, and then owns nothing, if that user has as many connections as it may have.
        """
        self._inspection = inspection
        service = inspection.daemon.service
        self.account = service.users.open_account(peer)
        self.connection: Connection = service.connect(channel, self, self.account)

    # --- the connection's server ---

    def about(self) -> dict[str, Any]:
        return {
            "channel": self.interface.__name__,
            "client_name": "",
            "client_id": self.account.peer.pid,
        }

    def held_by(self) -> None:
        """Nothing holds an Inspector: it isn't part of any collection, and sees the middle of things too."""

    changed_by = held_by

    def expect_message(self) -> None:
        """Nothing but the end of its channel ends the messages of an Inspector."""

    def refuse(self, reason: str) -> None:
        log = self._inspection.daemon.service.log
        log.error("an Inspector was refused", reason=reason, **self.about())
        self.connection.close()

    def exceeded(self, error: Exceeded) -> None:
        self.connection.close()

    def peer_closed(self) -> None:
        self.connection.close()

    # --- Inspector ---

    def snapshot(self, request: inspector.InspectorSnapshotRequest) -> Deferred:
        call = Deferred()

        def done(made: Handle | Failed) -> None:
            if isinstance(made, Failed):
                call.fail(made)
            else:
                call.answer(inspector.InspectorSnapshotResponse(snapshot=made))

        self._inspection.snapshot(request.buffer_collection_id, self.account.user, done)
        return call

    def explain(self, request: inspector.InspectorExplainRequest) -> Deferred:
        assert request.buffer_collection_id is not None
        call = Deferred()

        def done(made: Handle | Failed) -> None:
            if isinstance(made, Failed):
                call.fail(made)
            else:
                call.answer(inspector.InspectorExplainResponse(explanation=made))

        self._inspection.explain(request.buffer_collection_id, self.account.user, done)
        return call
