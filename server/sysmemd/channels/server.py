"""The server of a connection, as the connection uses it."""

from __future__ import annotations

from typing import Any, ClassVar, Protocol

from sysmem_protocol.library import Interface

from ..pause import Holder
from ..quota import Exceeded


class Server(Protocol):
    """The server of a connection. It has these methods, and one of the same name for each method of its interface.

    A method of the interface takes its request table, or nothing, and returns its response: a table, None, an `Error`,
    or a :class:`.Deferred` that is answered later. It only owns the handles that it takes. It may raise
    :class:`Failed`, and :class:`Refused` or the tree's :class:`Misuse`, which are equivalent.
    """

    interface: ClassVar[type[Interface]]

    def about(self) -> dict[str, Any]:
        """Return fields for log entries: the channel, and its client's name."""

    def held_by(self) -> Holder | None:
        """Return the collection whose attempt must finish before this channel may process a message or its close."""

    def changed_by(self) -> Holder | None:
        """Return the collection whose change must finish before anything may be done with the served object."""

    def expect_message(self) -> None:
        """Raise :class:`Refused` if no further message is allowed."""

    def refuse(self, reason: str) -> None:
        """End the channel and everything that depends on it, because a rule was broken."""

    def failed(self, reason: str) -> None:
        """End the channel and everything that depends on it, because the daemon cannot serve it."""

    def exceeded(self, error: Exceeded) -> None:
        """End everything that depends on the request. The user is over its quota, which is already logged."""

    def peer_closed(self) -> None:
        """Handle the close of the client's end. Everything that it sent was processed."""


def unnamed(interface: type[Interface], pid: int) -> dict[str, Any]:
    """Return the log fields of a channel whose client has no name, only a process; see :meth:`Server.about`."""
    return {"channel": interface.__name__, "client_name": "", "client_id": 0, "pid": pid}


class Unattached:
    """The base of a :class:`Server` that is not part of a collection. Only the end of its channel ends it."""

    def held_by(self) -> None:
        """Return None: nothing holds it."""

    changed_by = held_by

    def expect_message(self) -> None:
        """Accept every message."""


class Nobody(Unattached):
    """The server of a closed connection. It does nothing."""

    interface: ClassVar[type[Interface]] = Interface

    def about(self) -> dict[str, Any]:
        return {"channel": "", "client_name": "", "client_id": 0}

    def refuse(self, reason: str) -> None:
        """Do nothing: the connection is closed."""

    def failed(self, reason: str) -> None:
        """Do nothing: the connection is closed."""

    def exceeded(self, error: Exceeded) -> None:
        """Do nothing: the connection is closed."""

    def peer_closed(self) -> None:
        """Do nothing: the connection is closed."""


NOBODY = Nobody()
