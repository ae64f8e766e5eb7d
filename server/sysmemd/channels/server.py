"""What serves a connection."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from sysmem_protocol.library import Interface

from ..pause import Holder
from ..quota import Exceeded


class Server(Protocol):
    """What serves a connection: a method for each of its interface's, named alike, and these.

    A method takes its request table, or nothing, and returns its answer: a table, None, an `Error`, or a
    :class:`.Deferred` that is answered later. It owns no handle that it doesn't take. It may raise :class:`Failed`, and
    :class:`Refused` or the tree's :class:`Misuse`, which mean the same.
    """

    interface: ClassVar[type[Interface]]

    def about(self) -> dict[str, Any]:
        """Fields for log lines: which channel this is, and who its client says it is."""

    def held_by(self) -> Holder | None:
        """Return what has to be over before anything more is processed, be it a message or the client's close."""

    def changed_by(self) -> Holder | None:
        """Return what has to be over before anybody may do anything to what this serves."""

    def expect_message(self) -> None:
        """Raise :class:`Refused` when no message at all may come any more."""

    def refuse(self, reason: str) -> None:
        """A rule was broken: end the channel and what depends on it."""

    def failed(self, reason: str) -> None:
        """The daemon can't serve the channel: end it and what depends on it."""

    def exceeded(self, error: Exceeded) -> None:
        """The user has as much as it may have, which is logged already: end what depends on what was asked for."""

    def peer_closed(self) -> None:
        """The client's end is closed and everything that it sent was processed."""


class Nobody:
    """The server of a connection that is closed."""

    interface: ClassVar[type[Interface]] = Interface

    def about(self) -> dict[str, Any]:
        return {"channel": "", "client_name": "", "client_id": 0}

    def held_by(self) -> None:
        """Nobody holds what is closed."""

    changed_by = held_by

    def expect_message(self) -> None:
        """No message comes."""

    def refuse(self, reason: str) -> None:
        """What is closed ends no more."""

    def failed(self, reason: str) -> None:
        """What is closed ends no more."""

    def exceeded(self, error: Exceeded) -> None:
        """What is closed ends no more."""

    def peer_closed(self) -> None:
        """What is closed ends no more."""


NOBODY = Nobody()
