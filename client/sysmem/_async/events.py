"""Eventpairs that tasks wait for."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from .._handles import EventPair
from .._sharing import moves
from .._timeouts import seconds


class AsyncEventPair(EventPair):
    """One end of an eventpair, which the daemon closes its end of when something has happened.

    For any number of tasks.
    """

    __slots__ = ()

    async def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait until the other end is closed, `timeout` seconds at most: True, or False when the time is over.

        Raises `HandleClosedError` when this end is closed, also when another task does that meanwhile. Cancellation
        changes nothing.
        """
        allowed = seconds(timeout)
        await anyio.lowlevel.checkpoint()
        if self.is_closed():
            return True
        me = object()
        try:
            with anyio.move_on_after(allowed):
                await anyio.wait_readable(self._watch(me))
        finally:
            self._watches.pop(me, None)
            self._close_if_unused()
        return self.is_closed()


moves(AsyncEventPair)
