"""The servers of collections: constraints, and responses with buffers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

from sysmem_protocol import sysmem2
from sysmem_protocol.codec import encode_response
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Table
from sysmem_protocol.sysmem2 import Error

from ..memory import Buffers
from ..ports import NoMemoryError
from ..tree import Allocated
from ..users import Account, OverLimitError
from . import reasons
from .answering import Encoded
from .deferred import Deferred
from .errors import Refused
from .nodes import NodeServer, TokenServer, adopt
from .service import Service

_WAIT = sysmem2.BufferCollection.wait_for_all_buffers_allocated
#: The maximum number of responses that are kept for one collection. They are not charged to a user, and a client gets a
#: different one after each strong handle that is closed.
_MOST_SHAPES = 8


class CollectionServer(NodeServer):
    """The server of one participant's collection."""

    interface = sysmem2.BufferCollection

    def __init__(
        self, service: Service, server_end: Handle, account: Account, *, explained: bool
    ) -> None:
        super().__init__(service, server_end, account, explained=explained)
        self._waiting: list[Deferred] = []

    def allocated(self) -> None:
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            self._explain_outcome()
            call.answer_with(BuffersAnswer(self))

    def set_constraints(self, request: sysmem2.BufferCollectionSetConstraintsRequest) -> None:
        must_match = None
        if request.must_match_vmo is not None:
            known = self._service.memory.identify(request.must_match_vmo.fileno())
            if known is None:
                raise Refused("$.must_match_vmo is not a VMO of this daemon")
            must_match = known.settings
        self.node.set_constraints(request.constraints, must_match)

    def wait_for_all_buffers_allocated(self) -> Deferred:
        self.node.wait_for_all_buffers_allocated()
        if self.node.outcome is not None:
            self._explain_outcome()
            return Deferred(BuffersAnswer(self))
        call = Deferred()
        self._waiting.append(call)
        return call

    def check_all_buffers_allocated(self) -> Error | None:
        error = self.node.check_all_buffers_allocated()
        if error is Error.PENDING:
            if self.connection.explained:
                names = self._may_name_others()
                self.explain(reasons.of_pending(self.node, names=names))
        else:
            self._explain_outcome()
        return error

    def _explain_outcome(self) -> None:
        """Send the reason if the client gets an error."""
        attempt = self.node.collection.last_attempt
        if isinstance(self.node.outcome, Error) and attempt is not None:
            names = self._may_name_others()
            self.explain(reasons.of_attempt(attempt, self.node, names=names))

    def attach_token(self, request: sysmem2.BufferCollectionAttachTokenRequest) -> None:
        assert request.token_request is not None
        assert request.rights_attenuation_mask is not None
        child = self.child(TokenServer, request.token_request)
        adopt(child, partial(self.node.attach_token, child, request.rights_attenuation_mask))

    def attach_lifetime_tracking(
        self, request: sysmem2.BufferCollectionAttachLifetimeTrackingRequest
    ) -> None:
        assert request.buffers_remaining is not None
        event = self._event(request.server_end)
        self.node.attach_lifetime_tracking(event, request.buffers_remaining)

    def cannot_hand_out(self, error: Exception) -> None:
        """Log that this client's buffers exist, but there are no descriptors for it."""
        self._service.log.error(
            "no descriptors can be created for the buffers", reason=str(error), **self.about()
        )
        self.connection.explain_next(
            Error.NO_MEMORY, f"no descriptors can be created for the buffers: {error}"
        )


class BuffersAnswer:
    """The response to a wait: a participant's own descriptors for every buffer, or the error.

    Until it is sent, it counts as the strong handles in it: the buffers stay, whichever participants leave.
    """

    def __init__(self, server: CollectionServer) -> None:
        """Create the response for a collection's client. Its node must have its outcome."""
        self._server = server
        self._outcome = outcome = server.node.outcome
        self._redeem: Callable[[], None] | None = None
        if isinstance(outcome, Allocated) and outcome.delivers_vmo and not outcome.weak:
            self._redeem = _buffers_of(outcome).promise_strong()

    def done(self) -> None:
        """See :class:`.Maker`."""
        if self._redeem is not None:
            self._redeem()

    def instead(self, error: Exception) -> Error:
        """See :class:`.Maker`."""
        self._server.cannot_hand_out(error)
        return Error.NO_MEMORY

    def make(self) -> Encoded | Error:
        """See :class:`.Maker`."""
        outcome = self._outcome
        if not isinstance(outcome, Allocated):
            return Error.UNSPECIFIED if outcome is None else outcome
        node = self._server.node
        try:
            delivered = _buffers_of(outcome).hand_out(
                outcome.rights,
                weak=outcome.weak,
                client=node.client,
                delivers_vmo=outcome.delivers_vmo,
                payer=self._server.account,
            )
        except NoMemoryError as error:
            if isinstance(error, OverLimitError):
                self._server.account.say(error.exceeded, self._server.about())
            return self.instead(error)
        handles: list[Handle] = []
        shape = []
        for buffer in delivered:
            vmo, close_weak_asap = buffer.vmo, buffer.close_weak_asap
            handles += [handle for handle in (vmo, close_weak_asap) if handle is not None]
            shape.append((vmo is None, close_weak_asap is None))

        def table() -> Table:
            return sysmem2.BufferCollectionWaitForAllBuffersAllocatedResponse(
                buffer_collection_info=sysmem2.BufferCollectionInfo(
                    settings=outcome.settings,
                    buffers=[
                        sysmem2.VmoBuffer(
                            vmo=buffer.vmo,
                            vmo_usable_start=0,
                            close_weak_asap=buffer.close_weak_asap,
                        )
                        for buffer in delivered
                    ],
                    buffer_collection_id=node.collection.id,
                )
            )

        answers = self._server.party.answers
        settings, body = answers.get(key := tuple(shape), (None, b""))
        if settings is not outcome.settings:
            body, _ = encode_response(_WAIT, table())
            if len(answers) >= _MOST_SHAPES:
                answers.clear()
            answers[key] = outcome.settings, body
        return Encoded(body, handles, table)


def _buffers_of(outcome: Allocated) -> Buffers:
    return cast("Buffers", outcome.buffers)  # the tree's type has only the methods that it needs
