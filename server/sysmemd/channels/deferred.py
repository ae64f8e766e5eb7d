"""Answers that are given later than the turn in which the call came."""

from __future__ import annotations

from sysmem_protocol.library import Method, Table
from sysmem_protocol.sysmem2 import Error

from .answering import Answering, Maker
from .errors import Failed


class Deferred:
    """An answer that is made when it can be sent: once its maker is known, or never, if the connection closes first."""

    __slots__ = ("_connection", "_maker", "_method", "_txid")

    def __init__(self, maker: Maker | None = None) -> None:
        self._maker = maker

    def bind(self, connection: Answering, method: Method, txid: int) -> None:
        """Remember which call this answers, and answer it if that is possible already."""
        self._connection = connection
        self._method = method
        self._txid = txid
        if self._maker is not None:
            self.answer_with(self._maker)

    def answer_with(self, maker: Maker) -> None:
        """Answer, from a later turn of the loop.

        Nothing is sent and nothing fails before this returns, so that the tree may say it in the midst of a change.
        """
        self._connection.answer_later(self._method, self._txid, maker)

    def answer(self, answer: Table | Error | None) -> bool:
        """Answer at once, from the turn of another connection. The handles in `answer` are closed afterwards.

        Return whether the answer was sent, or waits for a client that reads slowly. Otherwise that client is gone or
        can't be answered, and its channel closes. Nothing is raised.
        """
        return self._connection.try_answer(self._method, self._txid, answer)

    def fail(self, failure: Failed) -> None:
        """Answer at once with an error, and log why. Nothing is raised."""
        self._connection.log_failure(self._method, failure)
        self.answer(failure.error)

    @property
    def gone(self) -> bool:
        """Whether the client that waits for this has left."""
        return self._connection.gone
