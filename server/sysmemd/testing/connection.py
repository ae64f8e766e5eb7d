"""A connection whose messages can be delayed, and whose client can be ended after a message."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

from sysmem_protocol.handles import Handle
from sysmem_protocol.inspector import Inspector
from sysmem_protocol.library import Method
from sysmem_protocol.message import HEADER
from sysmem_protocol.testing import Testing

from ..channels.connection import Connection
from ..pause import Holder, wait_for, wait_while
from ..ports import Clock
from .faults import Faults

#: Protocols that only the test itself uses.
_LOOKING = (Testing, Inspector)


class _Timer:
    """A time to wait for."""

    def __init__(self, clock: Clock, nanoseconds: int) -> None:
        self._clock = clock
        self._deadline = clock.now() + nanoseconds

    def when_idle(self, callback: Callable[[], None]) -> None:
        """See :class:`sysmemd.pause.Holder`."""
        self._clock.call_at(self._deadline, callback)


class TestedConnection(Connection):
    """A connection with fault injection."""

    def __init__(self, *arguments: Any, faults: Faults, **named: Any) -> None:
        self._faults = faults
        super().__init__(*arguments, **named)
        faults.connections.add(self)

    def receive(self) -> bool:
        """See :meth:`Connection.receive`. The test's own messages are not affected by faults."""
        ours = self._server.interface is Testing
        with self._faults.suspended() if ours else contextlib.nullcontext():
            return super().receive()

    def hang_up(self) -> None:
        """Do in this user's turn what is done when the client closes its end, once the served object exists."""
        if self.on_served is None:  # otherwise the daemon is about to end the channel itself
            self.when_served(partial(self._reactor.in_turn, self.account.user, self._hang_up))

    def _hang_up(self) -> None:
        wait_while(self._held_by)
        if self.reading:
            self.reading = False
            self._end(self._server.peer_closed)

    def _held_by(self) -> Holder | None:
        if not self.reading:
            return None
        return self if self._processing else self._server.held_by()

    def _process(
        self, data: bytes, handles: list[Handle], held_by: Callable[[], Holder | None]
    ) -> None:
        method = self._method(data)
        try:
            if method and (nanoseconds := self._faults.delay_of(method, self._server.interface)):
                wait_for(_Timer(self._faults.clock, nanoseconds))
            is_to_be = self.reading and not self._faults.has_ended(self)
        except BaseException:  # the daemon stops
            _close(handles)
            raise
        if not is_to_be:
            _close(handles)
            return
        super()._process(data, handles, held_by)
        if self._server.interface not in _LOOKING:
            self._faults.processed(self, str(method or ""))

    def _method(self, data: bytes) -> Method | None:
        """Return the method of a message; None if it is not recognisable."""
        if len(data) < HEADER.size:
            return None
        *_, ordinal = HEADER.unpack_from(data)
        return self._server.interface.methods.get(ordinal)


def _close(handles: list[Handle]) -> None:
    for handle in handles:
        handle.close()
