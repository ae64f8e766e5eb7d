"""The eventpair of the blocking face."""

from __future__ import annotations

from .._handles import EventPair
from .._sharing import moves
from .._timeouts import deadline, poll_seconds, remaining


class BlockingEventPair(EventPair):
    """One end of an eventpair. The daemon closes the other end when the event has happened.

    Any number of threads may wait for it.
    """

    __slots__ = ()

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait until the other end is closed. Return True, or False if `timeout` seconds have passed.

        Raises:
            HandleClosedError: This end is closed, or another thread closes it meanwhile.
        """
        end = deadline(timeout)
        if self.is_closed():
            return True
        me = object()
        try:
            self._watch(me).poll(poll_seconds(remaining(end)))
        except (OSError, ValueError):
            self.fileno()  # raises if this end was closed meanwhile
            raise
        finally:
            self._leave(me)
        return self.is_closed()


moves(BlockingEventPair)
