"""Events that are signalled together.

An eventpair's server end signals by being closed, which is also what happens to it when its client is gone: a client
that asks for events again and again and drops them costs the daemon no descriptors.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Protocol, runtime_checkable

from sysmemd.ports import Closeable

from .watch import Hangups


@runtime_checkable
class _HasDescriptor(Protocol):
    def fileno(self) -> int: ...


class SignalSet:
    """Server ends of eventpairs, owned from `add` on, until their client ends are closed or all are signalled."""

    __slots__ = ("_events", "_hangups")

    def __init__(self, hangups: Hangups) -> None:
        self._hangups = hangups
        #: By identity, with the descriptor that is watched (-1: none).
        self._events: dict[int, tuple[Closeable, int]] = {}

    def add(self, event: Closeable) -> None:
        """Own an event. One whose client can't be watched (it has no descriptor, say) is kept to the end."""
        key, descriptor = id(event), -1
        if isinstance(event, _HasDescriptor):
            with contextlib.suppress(OSError):
                self._hangups.add(event.fileno(), partial(self._drop, key))
                descriptor = event.fileno()
        self._events[key] = event, descriptor

    def signal(self) -> None:
        """Close all of them."""
        while self._events:
            self._drop(next(iter(self._events)))

    def _drop(self, key: int) -> None:
        event, descriptor = self._events.pop(key)
        if descriptor >= 0:
            self._hangups.remove(descriptor)
        event.close()
