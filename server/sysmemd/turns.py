"""Turns: what is to be done for one user, a slice at a time (`spec/robustness.md`, Fair turns).

Each user has an epoll instance with all channels of that user. The kernel reports ready channels in order and moves
each one that it has reported to the end of its list. So channels of one user are served in turn, and idle ones cost
nothing, however many there are. Users are served in turn by whoever owns these objects (:mod:`.daemon`): each one with
something to do gets one slice, then the next one.

There is no trio here: the owner waits until the epoll instance is readable.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from .channels import Connection, Holder

#: How long one user is served before the next one is, in nanoseconds.
SLICE_NS: Final = 1_000_000
#: How many messages of one channel are processed before the user's next channel is served.
RECEIVE_BUDGET: Final = 16
#: How many ready channels the kernel reports at a time.
_MAX_EVENTS: Final = 64

_READABLE: Final = select.EPOLLIN
_WRITABLE: Final = select.EPOLLOUT
#: Reports an eventfd that is always readable, once.
_WAKE: Final = select.EPOLLIN | select.EPOLLONESHOT


class Turns:
    """The channels of one user, and which of them have something to do."""

    def __init__(self, now: Callable[[], int] = time.monotonic_ns) -> None:
        """Wait for no channel yet; `now` returns the time in nanoseconds.

        Raises `OSError` if the process has no descriptor left.
        """
        self._now = now
        self._connections: dict[int, Connection] = {}
        #: The events that a channel is waited for, where these are others than :data:`_READABLE`.
        self._masks: dict[int, int] = {}
        #: Connections that aren't read because a collection's attempt to allocate is under way.
        self._held: set[Connection] = set()
        #: Connections with answers that their channel has no room for.
        self._full: set[Connection] = set()
        #: Connections with answers to send, in order.
        self._to_flush: dict[Connection, None] = {}
        #: Channels that the kernel reported and that haven't been served since: descriptor and events.
        self._ready: deque[tuple[int, int]] = deque()
        #: Whether the owner waits for :meth:`fileno`.
        self._idle = False
        self._wake = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._epoll = select.epoll()
            self._epoll.register(self._wake, 0)
        except OSError:
            os.close(self._wake)
            raise

    def __bool__(self) -> bool:
        """Whether there is any channel."""
        return bool(self._connections)

    def fileno(self) -> int:
        """Return the descriptor, owned by this object, that is readable when :meth:`take` has something to do."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Stop waiting. The channels stay open. Idempotent."""
        if not self._epoll.closed:
            self._epoll.close()
            os.close(self._wake)

    def connections(self) -> list[Connection]:
        """Return all channels."""
        return list(self._connections.values())

    # --- what connections ask for; see `channels.Reactor` ---------------------------------------------------------

    def serve(self, connection: Connection) -> None:
        """Read a new channel whenever it is readable. A channel that can't be waited for closes."""
        fd = connection.fileno()
        self._connections[fd] = connection
        self._masks[fd] = 0
        self._update(connection)

    def flush(self, connection: Connection) -> None:
        """Send the answers that wait in a connection, in this user's next turn and whenever there is room."""
        if connection not in self._full:
            self._to_flush[connection] = None
            self._rouse()

    def hold(self, connection: Connection, holder: Holder) -> None:
        """Don't read a channel until its holder is idle."""
        self._held.add(connection)
        self._update(connection)
        holder.when_idle(partial(self._resume, connection))

    def closing(self, connection: Connection) -> None:
        """Forget a channel that is about to close."""
        fd = connection.fileno()
        del self._connections[fd]
        if self._masks.pop(fd, _READABLE) and not self._epoll.closed:
            # A client may have a copy of the descriptor, and that would keep it registered.
            self._epoll.unregister(fd)
        self._held.discard(connection)
        self._full.discard(connection)
        self._to_flush.pop(connection, None)
        if not self._connections:
            self._rouse()

    # --- serving --------------------------------------------------------------------------------------------------

    def take(self) -> bool:
        """Serve this user for one slice. Returns False if nothing is left to do until `fileno` is readable."""
        self._idle = False
        now = self._now
        until = now() + SLICE_NS
        ready = self._ready
        if not ready:
            ready.extend(self._epoll.poll(0, _MAX_EVENTS))
        while True:
            while self._to_flush:
                self._flush(next(iter(self._to_flush)))
                if now() >= until:
                    return True
            if not ready:
                break
            fd, events = ready.popleft()
            connection = self._connections.get(fd)
            if connection is not None:  # it hasn't closed meanwhile
                self._serve(connection, events, until)
                if now() >= until:
                    return True
        self._idle = True
        return False

    def _serve(self, connection: Connection, events: int, until: int) -> None:
        if connection in self._full and events != _READABLE:
            self._flush(connection)
        if not connection.reading:
            self._update(connection)
            return
        for _ in range(RECEIVE_BUDGET):
            if not connection.receive() or self._now() >= until:
                return

    def _flush(self, connection: Connection) -> None:
        self._to_flush.pop(connection, None)
        if connection.flush():
            self._full.discard(connection)
        else:
            self._full.add(connection)
        self._update(connection)

    def _resume(self, connection: Connection) -> None:
        self._held.discard(connection)
        self._update(connection)

    def _update(self, connection: Connection) -> None:
        """Have the kernel report what a channel waits for."""
        if connection.closed:
            return
        fd = connection.fileno()
        before = self._masks.get(fd, _READABLE)
        wanted = _READABLE if connection.reading and connection not in self._held else 0
        if connection in self._full:
            wanted |= _WRITABLE
        if wanted == before:
            return
        try:
            if not wanted:
                # Not even without events: a closed channel would be reported all the time.
                self._epoll.unregister(fd)
            elif not before:
                self._epoll.register(fd, wanted)
            else:
                self._epoll.modify(fd, wanted)
        except OSError as error:
            connection.refuse(f"the daemon can't wait for it: {error}")
            connection.close()
            return
        if wanted == _READABLE:
            del self._masks[fd]
        else:
            self._masks[fd] = wanted

    def _rouse(self) -> None:
        """Have the owner take a turn."""
        if self._idle and not self._epoll.closed:
            self._idle = False
            self._epoll.modify(self._wake, _WAKE)
