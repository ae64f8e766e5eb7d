"""Responses that are sent in a later turn than that of their call."""

from __future__ import annotations

from sysmem_protocol.library import Method, Table
from sysmem_protocol.sysmem2 import Error

from .answering import Answering, Maker
from .errors import Failed


class Deferred:
    """A response that is sent after its call was processed, unless the connection closes before.

    It is given then (:meth:`answer`), or a maker creates it when it can be sent (:meth:`answer_with`).
    """

    __slots__ = ("_connection", "_maker", "_method", "_txid")

    def __init__(self, maker: Maker | None = None) -> None:
        self._maker = maker

    def bind(self, connection: Answering, method: Method, txid: int) -> None:
        """Set the call that this answers, and answer it if that is already possible."""
        self._connection = connection
        self._method = method
        self._txid = txid
        if self._maker is not None:
            self.answer_with(self._maker)

    def answer_with(self, maker: Maker) -> None:
        """Answer in a later turn of the loop.

        Nothing is sent and nothing fails before this returns, so the tree may call it during a change.
        """
        self._connection.answer_later(self._method, self._txid, maker)

    def answer(self, answer: Table | Error | None) -> bool:
        """Answer immediately, in the turn of another connection. The handles in `answer` are closed afterwards.

        Return whether the response was sent or is queued for a slow client. Otherwise that client is gone or cannot be
        answered, and its channel closes. Raises nothing.
        """
        return self._connection.try_answer(self._method, self._txid, answer)

    def fail(self, failure: Failed) -> None:
        """Answer immediately with an error, and log the reason. Raises nothing."""
        self._connection.log_failure(self._method, failure)
        self.answer(failure.error)

    @property
    def gone(self) -> bool:
        """Whether the waiting client has left."""
        return self._connection.gone
