"""Events: server ends of eventpairs, which signal by being closed.

An event is also closed when its client's end is closed, so a client that requests and drops events repeatedly costs the
daemon no descriptors.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from sysmem_protocol.handles import Handle
from sysmemd.ports import Signal

from .groups import Groups
from .watch import Hangups


class Event:
    """The server's end of one eventpair."""

    __slots__ = ("_closed", "_handle", "_hangups", "_when_gone")

    def __init__(
        self, handle: Handle, hangups: Hangups, closed: Callable[[], None] = lambda: None
    ) -> None:
        """Take ownership of `handle`, even if this raises (`OSError`: the kernel is out of memory for it).

        `closed` is called once, after the handle has been closed.
        """
        self._handle = handle
        self._closed = closed
        self._hangups = hangups
        self._when_gone: Callable[[], object] | None = None
        try:
            hangups.add(handle.fileno(), self._hung_up)
        except BaseException:
            handle.close()
            closed()
            raise

    def when_gone(self, callback: Callable[[], object]) -> None:
        """See :class:`sysmemd.ports.Signal`."""
        self._when_gone = callback

    def close(self) -> None:
        """Signal. Idempotent. No callback is called."""
        if not self._handle.closed:
            self._hangups.remove(self._handle.fileno())
            self._handle.close()
            self._closed()

    def _hung_up(self) -> None:
        self.close()
        if self._when_gone is not None:
            self._when_gone()


class SignalSet:
    """Events that are signalled together. Those whose client is gone are removed."""

    __slots__ = ("_events", "_groups")

    def __init__(self, groups: Groups) -> None:
        self._events: dict[int, Signal] = {}
        self._groups = groups

    def add(self, event: Signal) -> None:
        """Take ownership of an event."""
        key = id(event)
        self._events[key] = event
        event.when_gone(partial(self._forget, key))

    def _forget(self, key: int) -> None:
        self._events.pop(key, None)

    def signal(self) -> None:
        """Close all events, now or soon."""
        if not self._events:
            return  # as most do
        events, self._events = self._events, {}
        self._groups.take(event.close for event in events.values())
