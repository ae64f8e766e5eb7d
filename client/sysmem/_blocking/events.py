"""Eventpairs that threads wait for."""

from __future__ import annotations

from .._handles import EventPair
from .._sharing import moves
from .._timeouts import deadline, poll_seconds, remaining


class BlockingEventPair(EventPair):
    """One end of an eventpair, which the daemon closes its end of when something has happened.

    For any number of threads at once.
    """

    __slots__ = ()

    def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait until the other end is closed, `timeout` seconds at most: True, or False when the time is over.

        Raises `HandleClosedError` when this end is closed, also when another thread does that meanwhile.
        """
        end = deadline(timeout)
        if self.is_closed():
            return True
        me = object()
        try:
            self._watch(me).poll(poll_seconds(remaining(end)))
        except (OSError, ValueError):
            self.fileno()  # closed meanwhile
            raise
        finally:
            self._leave(me)
        return self.is_closed()


moves(BlockingEventPair)
