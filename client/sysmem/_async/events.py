"""The eventpair of the async face."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from .._handles import EventPair
from .._sharing import moves
from .._timeouts import seconds


class AsyncEventPair(EventPair):
    """One end of an eventpair. The daemon closes the other end when the event has happened.

    Any number of tasks may wait for it.
    """

    __slots__ = ()

    async def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait until the other end is closed. Return True, or False if `timeout` seconds have passed.

        Cancellation: nothing changes.

        Raises:
            HandleClosedError: This end is closed, or another task closes it meanwhile.
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
            self._leave(me)
        return self.is_closed()


moves(AsyncEventPair)
