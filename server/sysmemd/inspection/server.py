"""The server of Inspector connections."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from sysmem_protocol import inspector
from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Interface, Method, Table

from ..channels import Connection
from ..channels.answering import Answering
from ..channels.deferred import Deferred
from ..channels.errors import Failed
from ..channels.server import Unattached, unnamed
from ..ports import Peer
from ..quota import Exceeded
from .inspection import Done, Inspection


class InspectorServer(Unattached):
    """One connection to the service. It may see intermediate states of a collection, because no attempt holds it."""

    interface: ClassVar[type[Interface]] = inspector.Inspector

    def __init__(self, inspection: Inspection, channel: Channel, peer: Peer) -> None:
        """Take ownership of `channel`, just accepted from the process `peer`.

        Raises :class:`.Exceeded` if that user has the maximum number of connections. In that case it owns nothing.
        """
        self._inspection = inspection
        service = inspection.daemon.service
        self.account = service.users.open_account(peer)
        self.connection: Connection = service.connect(channel, self, self.account)

    # --- interface for the connection ---

    def about(self) -> dict[str, Any]:
        return unnamed(self.interface, self.account.peer.pid)

    def refuse(self, reason: str) -> None:
        log = self._inspection.daemon.service.log
        log.error(
            "an Inspector channel was closed because of an error", reason=reason, **self.about()
        )
        self.connection.close()

    def failed(self, reason: str) -> None:
        self.refuse(f"the daemon failed: {reason}")

    def exceeded(self, error: Exceeded) -> None:
        self.connection.close()

    def peer_closed(self) -> None:
        self.connection.close()

    # --- Inspector ---

    def snapshot(self, request: inspector.InspectorSnapshotRequest) -> Deferred:
        id, user = request.buffer_collection_id, self.account.user
        self._inspection.check_snapshot(id)
        return Asked(
            lambda done: self._inspection.snapshot(id, user, done),
            lambda made: inspector.InspectorSnapshotResponse(snapshot=made),
        )

    def watch(self, request: inspector.InspectorWatchRequest) -> None:
        assert request.watcher is not None
        self._inspection.watch(request.watcher.move(Handle), self.account, request)

    def explain(self, request: inspector.InspectorExplainRequest) -> Deferred:
        id, user = request.buffer_collection_id, self.account.user
        assert id is not None
        self._inspection.check_explain(id)
        return Asked(
            lambda done: self._inspection.explain(id, user, done),
            lambda made: inspector.InspectorExplainResponse(explanation=made),
        )


class Asked(Deferred):
    """The response to a question. The question is asked when the response can be sent."""

    def __init__(self, ask: Callable[[Done], None], answer: Callable[[Handle], Table]) -> None:
        super().__init__()
        self._ask = ask
        self._answer = answer

    def bind(self, connection: Answering, method: Method, txid: int) -> None:
        """See :class:`.Deferred`."""
        super().bind(connection, method, txid)
        self._ask(self._done)

    def _done(self, made: Handle | Failed) -> None:
        if isinstance(made, Failed):
            self.fail(made)
        else:
            self.answer(self._answer(made))
