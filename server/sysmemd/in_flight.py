"""Descriptors in flight: sent to clients that have not received them yet (`docs/spec/robustness.md`, Fair turns).

The kernel counts them for the user that the daemon runs as, and refuses more than one process may have open
(ETOOMANYREFS). A client that receives nothing could use them up for all. So there is a share for each user, each
connection of a user, and each channel of a connection (:class:`.quota.Share`). A response over the share waits in the
outbox.

The kernel reports whether everything that a channel has sent was received (SIOCOUTQ). It is asked when a share is used
up, and when a channel closes. A channel with unread data is then watched: the kernel reports each time when its client
has received something.
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

#: The maximum number of channels that have sent descriptors since their queues were last checked.
MAX_UNASKED: Final = 64
#: The maximum number of events that are processed at a time.
_MAX_EVENTS: Final = 64
#: Any queued datagram uses more than this in the kernel. It reports the receipt of a datagram while that still counts
#: as one byte, and does not report it again.
_LEAST_BYTES: Final = 256
#: Reported each time when a sent datagram is received, and when the other end closes.
_RECEIVED: Final = select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET


class Flight:
    """The descriptors in flight on one channel."""

    __slots__ = ("_in_flight", "_retry", "_uncharge", "account", "fd", "has_hung_up", "share")

    def __init__(
        self, in_flight: InFlight, account: Account, fd: int, retry: Callable[[], None]
    ) -> None:
        """Called by :meth:`InFlight.open`."""
        self._in_flight = in_flight
        self._retry: Callable[[], None] | None = retry
        self._uncharge: Callable[[], None] | None = None
        self.account = account
        self.fd = fd
        #: Whether the client has closed its end. In that case the kernel refuses to send, with an error.
        self.has_hung_up = False
        self.share = Share(account.in_flight)

    def may_send(self, count: int) -> bool:
        """Return whether this many descriptors may be sent now. If not, `retry` is called when it may be possible."""
        return (
            self.has_hung_up or self.share.has_room(count) or self._in_flight.make_room(self, count)
        )

    def sent(self, count: int) -> None:
        """Record that this many descriptors were sent."""
        self.share.add(count)
        self._in_flight.sent(self)

    def retry(self) -> None:
        """Let the channel try again, unless it has closed."""
        if self._retry is not None:
            self._retry()

    def close(self) -> None:
        """Record that the channel is about to close. Its end stays open until its client has received everything."""
        self._retry = None
        self._in_flight.closing(self)

    def keep_end(self, closing: Closing) -> None:
        """Keep the channel's end open in such a way that its client sees it closed. Raises `OSError`.

        The client's messages are dropped, because it may wait for the descriptors in them to close instead of
        receiving.
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
    """The descriptors in flight on all channels.

    The owner waits until :meth:`fileno` is readable and then calls :meth:`take`.
    """

    def __init__(
        self, limit: int, closing: Closing, in_turn: Callable[[User, Callable[[], None]], None]
    ) -> None:
        """Allow at most `limit` descriptors in flight.

        `closing` closes ends of channels, and `in_turn` calls a function in a turn of a user.

        Raises `OSError` if the process has no descriptor left.
        """
        self.all = Share(limit=limit)
        self._closing = closing
        self._in_turn = in_turn
        self._epoll = select.epoll()
        #: Channels that have sent descriptors since their last check, oldest first.
        self._unasked: dict[Flight, None] = {}
        self._watched: dict[int, Flight] = {}
        #: Channels with a response that waits until others are received.
        self._waiting: dict[User, dict[Flight, None]] = {}

    def open(self, account: Account, fd: int, retry: Callable[[], None]) -> Flight:
        """Return the counter for a channel with the descriptor `fd`. Its owner must close it before the channel."""
        return Flight(self, account, fd, retry)

    def fileno(self) -> int:
        """Return a descriptor that is readable when something was received. This object owns it."""
        return self._epoll.fileno()

    def close(self) -> None:
        """Stop counting, and close the ends that were kept open. All channels must be closed before."""
        for flight in tuple(self._watched.values()):
            self._forget(flight)
        self._epoll.close()

    def take(self) -> None:
        """Process the kernel's reports. Never blocks."""
        for fd, events in self._epoll.poll(0, _MAX_EVENTS):
            flight = self._watched.get(fd)
            if flight is not None:
                if events & select.EPOLLHUP:
                    flight.has_hung_up = True
                self._look(flight)
                flight.retry()  # its client may have closed its end

    # --- for flights --------------------------------------------------------------------------------------------------

    def make_room(self, flight: Flight, count: int) -> bool:
        """Return whether a channel may send this many descriptors after all, because others were received."""
        for one in (flight, *tuple(self._unasked)):
            self._look(one)
            if flight.share.has_room(count):
                return True
        if not self._watch(flight):
            return True  # there would be no report for a retry, so let the kernel decide
        self._waiting.setdefault(flight.account.user, {})[flight] = None
        return False

    def sent(self, flight: Flight) -> None:
        """Record that a channel has sent descriptors."""
        if flight.fd not in self._watched:
            self._unasked[flight] = None
            if len(self._unasked) > MAX_UNASKED:
                self._look(next(iter(self._unasked)))

    def closing(self, flight: Flight) -> None:
        """Remove a channel that is about to close, as soon as everything that it has sent was received."""
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
            self._forget(flight)  # no report is possible any more
        else:
            if not self._watch(flight):
                self._forget(flight)

    # --- kernel queries -----------------------------------------------------------------------------------------------

    def _look(self, flight: Flight) -> None:
        """Check whether everything that a channel has sent was received, and watch it if not."""
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
            # The state is unknown and stays so, because a receipt is reported only once.
            return True

    def _watch(self, flight: Flight) -> bool:
        """Make the kernel report receipts on a channel. Return False if there is no memory for that."""
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
            # A client may have a duplicate of the descriptor, which would keep it registered.
            with contextlib.suppress(OSError):
                self._epoll.unregister(flight.fd)

    def _forget(self, flight: Flight) -> None:
        """Stop counting what a channel has sent, and let channels that wait for room try again."""
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
