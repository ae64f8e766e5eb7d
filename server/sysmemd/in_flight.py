"""Descriptors in flight: sent to clients that haven't received them yet (`docs/spec/robustness.md`, Fair turns).

The kernel counts them against the user that the daemon runs as, and refuses more than one process may have open
(ETOOMANYREFS). A client that receives nothing would use them up for everybody. So each user has a share, each
connection of a user, and each channel of a connection (:class:`.quota.Share`). An answer over the share waits in the
outbox.

The kernel tells whether everything that a channel has sent was received (SIOCOUTQ). It is asked when a share is used
up, and when a channel closes. A channel with something unread is then watched: the kernel reports each time when its
client has received something.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from functools import partial
from typing import Final

from sysmem_protocol.channel import Closing
from sysmem_protocol.handles import duplicate, shut_down, unread_of

from .pause import giving_way
from .quota import Share
from .users import Account, User

#: How many channels may have sent descriptors without being asked whether these were received.
MAX_UNASKED: Final = 64
#: How many news are taken at a time.
_MAX_EVENTS: Final = 64
#: Whatever waits takes more in the kernel. It reports that a datagram was received while that still counts as one byte,
#: and doesn't report it again.
_LEAST_BYTES: Final = 256
#: Reported each time when something that was sent is received, and when the other end closes.
_RECEIVED: Final = select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Flight:
    """What is in flight on one channel."""

    __slots__ = ("_in_flight", "_retry", "_uncharge", "account", "fd", "has_hung_up", "share")

    def __init__(
        self, in_flight: InFlight, account: Account, fd: int, retry: Callable[[], None]
    ) -> None:
        """Made by :meth:`InFlight.open`."""
        self._in_flight = in_flight
        self._retry: Callable[[], None] | None = retry
        self._uncharge: Callable[[], None] | None = None
        self.account = account
        self.fd = fd
        #: Whether the client has closed its end: then the kernel refuses what is sent, and that says so.
        self.has_hung_up = False
        self.share = Share(account.in_flight)

    def may_send(self, count: int) -> bool:
        """Return whether so many descriptors may be sent now; otherwise `retry` is called when it may be possible."""
        return (
            self.has_hung_up or self.share.has_room(count) or self._in_flight.make_room(self, count)
        )

    def sent(self, count: int) -> None:
        """Note that so many descriptors were sent."""
        self.share.add(count)
        self._in_flight.sent(self)

    def retry(self) -> None:
        """Let the channel try again, unless it has closed."""
        if self._retry is not None:
            self._retry()

    def close(self) -> None:
        """Note that the channel is about to close. Its end is kept open while its client hasn't received everything."""
        self._retry = None
        self._in_flight.closing(self)

    def keep_end(self, closing: Closing) -> None:
        """Keep the channel's end open, so that its client sees it closed. Raises `OSError`.

        What the client has sent is dropped: it may wait for the other ends of that instead of receiving.
        """
        self.fd = duplicate(self.fd)
        self._uncharge = self.account.keep_descriptor()
        shut_down(self.fd)
        closing.stop_receiving(self.fd)

    def let_go(self, closing: Closing) -> None:
        """Close the end if it was kept open."""
        if self._uncharge is not None:
            self._uncharge()
            self._uncharge = None
            closing.close_end(self.fd)


class InFlight:
    """What is in flight on all channels.

    The owner waits until :meth:`fileno` is readable and then calls :meth:`take`.
    """

    def __init__(
        self, limit: int, closing: Closing, in_turn: Callable[[User, Callable[[], None]], None]
    ) -> None:
        """At most `limit` descriptors may be in flight to all clients. `closing` closes ends of channels;
        `in_turn` calls something in a turn of a user.

        Raises `OSError` if the process has no descriptor left.
        """
        self.all = Share(limit=limit)
        self._closing = closing
        self._in_turn = in_turn
        self._epoll = select.epoll()
        #: Those that have sent descriptors since they were asked; the oldest first.
        self._unasked: dict[Flight, None] = {}
        self._watched: dict[int, Flight] = {}
        #: Those with an answer that waits until others are received.
        self._waiting: dict[User, dict[Flight, None]] = {}

    def open(self, account: Account, fd: int, retry: Callable[[], None]) -> Flight:
        """Return the count for a channel with the descriptor `fd`, for its owner to close before the channel."""
        return Flight(self, account, fd, retry)

    def fileno(self) -> int:
        """Return the descriptor, owned by this object, that is readable when something was received."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Count no more, and close the ends that were kept open. All channels must be closed."""
        for flight in tuple(self._watched.values()):
            self._forget(flight)
        self._epoll.close()

    def take(self) -> None:
        """Take in what the kernel reports. Never blocks."""
        for fd, events in self._epoll.poll(0, _MAX_EVENTS):
            flight = self._watched.get(fd)
            if flight is not None:
                if events & select.EPOLLHUP:
                    flight.has_hung_up = True
                self._look(flight)
                flight.retry()  # its client may have closed its end

    # --- for flights --------------------------------------------------------------------------------------------------

    def make_room(self, flight: Flight, count: int) -> bool:
        """Return whether a channel may send so many descriptors after all, because others were received."""
        for one in (flight, *tuple(self._unasked)):
            self._look(one)
            if flight.share.has_room(count):
                return True
        if not self._watch(flight):
            return True  # nobody would tell when to try again: then the kernel may refuse them
        self._waiting.setdefault(flight.account.user, {})[flight] = None
        return False

    def sent(self, flight: Flight) -> None:
        """Note that a channel has sent descriptors."""
        if flight.fd not in self._watched:
            self._unasked[flight] = None
            if len(self._unasked) > MAX_UNASKED:
                self._look(next(iter(self._unasked)))

    def closing(self, flight: Flight) -> None:
        """Forget a channel that is about to close, as soon as all was received that it has sent."""
        waiting = self._waiting.get(flight.account.user)
        if waiting is not None:
            waiting.pop(flight, None)
        if not flight.share.count or self._is_received(flight):
            self._forget(flight)
            return
        self._unwatch(flight)
        try:
            flight.keep_end(self._closing)
        except OSError:
            self._forget(flight)  # nobody can tell any more
        else:
            if not self._watch(flight):
                self._forget(flight)

    # --- asking the kernel --------------------------------------------------------------------------------------------

    def _look(self, flight: Flight) -> None:
        """Ask whether all was received that a channel has sent, and watch it otherwise."""
        if not flight.share.count:
            return
        if self._is_received(flight):
            self._forget(flight)
        elif self._watch(flight):
            self._unasked.pop(flight, None)

    def _is_received(self, flight: Flight) -> bool:
        try:
            return unread_of(flight.fd) < _LEAST_BYTES
        except OSError:
            # Nobody can tell, and nobody will: what is received is reported once.
            return True

    def _watch(self, flight: Flight) -> bool:
        """Have the kernel report when something is received on a channel; False if there is no memory for that."""
        if flight.fd not in self._watched:
            try:
                self._epoll.register(flight.fd, _RECEIVED)
            except OSError:
                return False
            self._watched[flight.fd] = flight
        return True

    def _unwatch(self, flight: Flight) -> None:
        self._unasked.pop(flight, None)
        if self._watched.pop(flight.fd, None) is not None:
            # A client may have a copy of the descriptor, and that would keep it registered.
            with contextlib.suppress(OSError):
                self._epoll.unregister(flight.fd)

    def _forget(self, flight: Flight) -> None:
        """Count what a channel has sent no more, and let those try again that wait for room."""
        self._unwatch(flight)
        flight.let_go(self._closing)
        if flight.share.count:
            flight.share.add(-flight.share.count)
            waiting, self._waiting = self._waiting, {}
            for user, flights in waiting.items():
                self._in_turn(user, partial(_retry, flights))


def _retry(flights: dict[Flight, None]) -> None:
    for flight in giving_way(tuple(flights)):
        flight.retry()
