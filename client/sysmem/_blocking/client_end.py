"""A client end whose callers wait in threads.

One of the waiting threads leads: it receives for all threads, and passes each response to the thread that waits for it.
When the leader has its own response, it wakes another thread, which becomes the leader. This needs no additional thread
and no additional descriptor, and a program with one thread only sends and receives.

The threads synchronise by atomic operations on dictionaries, not by a lock: a signal handler could not wait for a lock
that the interrupted code holds. While a thread is inside a call, the descriptor stays open: `close()` wakes the thread,
and the last thread that leaves closes the descriptor.
"""

from __future__ import annotations

import _thread
import contextlib
import select
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

from sysmem_protocol.channel import AT_ONCE, Channel, PeerClosedError
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Interface, Method, Table
from sysmem_protocol.message import MalformedMessage
from sysmem_protocol.owner import CLOSED, HandleClosedError

from .._calls import PUT_OFF, Answer, Call, Calls, datagram, encode_request, unanswered
from .._handles import Arrived
from .._timeouts import deadline, milliseconds, remaining
from .._trace import traced

#: Connecting may wait for the daemon, as all blocking calls may.
CONNECT_MAY_WAIT = True

T = TypeVar("T")


class ClientEnd:
    """One end of a channel to the daemon, for any number of threads."""

    __slots__ = (
        "_calls",
        "_channel",
        "_ended",
        "_followers",
        "_gone",
        "_inside",
        "_lead",
        "_may_block",
    )

    def __init__(self, owned: int | socket.SocketType, interface: type[Interface]) -> None:
        """Take ownership of a descriptor or a socket, on which a protocol is spoken."""
        #: The reason why this end can no longer be used.
        self._gone: str | None = None
        #: The reason why nothing more can be received.
        self._ended: PeerClosedError | None = None
        self._calls = Calls()
        #: Whether a receive call may block in the kernel; otherwise poll first.
        self._may_block = socket.getdefaulttimeout() is None
        #: The running calls, and the threads that make them.
        self._inside: dict[object, int] = {}
        #: The leader, if there is one, under the only key. An election is one `setdefault`.
        self._lead: dict[None, object] = {}
        #: The locks on which waiting threads sleep, by what they wait for. Releasing a lock wakes its thread.
        self._followers: dict[object, threading.Lock] = {}
        self._channel = (
            Channel(owned, AT_ONCE, Arrived) if traced is None else traced(owned, interface)
        )

    # --- communication --------------------------------------------------------------------------------------------

    def send(self, method: Method, request: Table | None, timeout: float | None) -> None:
        """Send a one-way request. The table keeps ownership of its handles."""
        end = deadline(timeout)
        body, handles = encode_request(method, request)
        self._within(lambda me: self._send(datagram(method, body), handles, end, me))

    def call(self, method: Method, request: Table | None, timeout: float | None) -> Answer:
        """Send a request as :meth:`send` does, wait for its response and return it. The caller owns the response."""
        end = None if timeout is None else deadline(timeout)
        body, handles = encode_request(method, request)
        return self._within(lambda me: self._call(method, body, handles, end, me))

    def wait_closed(self, timeout: float | None) -> bool:
        """Wait until the other end is closed and everything that it sent has been received."""
        end = deadline(timeout)
        return self._within(lambda me: self._wait_closed(end, me))

    def _within(self, work: Callable[[object], T]) -> T:
        """Run `work`. The descriptor stays open meanwhile."""
        me = object()
        try:
            self._inside[me] = threading.get_ident()
            if self._gone:  # a close() after this point sees that a call is running
                self._check_own()
            return work(me)
        finally:
            # Without a function call, during which a KeyboardInterrupt could occur.
            if me in self._inside:
                del self._inside[me]
            try:
                if self._gone or self._followers:
                    self._left()
            except BaseException:
                self._left()
                raise

    def _left(self) -> None:
        """Finish what a leaving thread may have to finish: elect a leader, close the descriptor. Idempotent."""
        if self._gone:
            self._close_if_unused()
        elif self._followers and not self._lead:
            for follower in tuple(self._followers)[:1]:
                self._wake(follower)

    def _call(
        self, method: Method, body: bytes, handles: list[Handle], end: float | None, me: object
    ) -> Answer:
        if len(self._inside) > 1:
            self._check_first(me)
        call = None
        try:
            if method is PUT_OFF:
                call = self._calls.resume(method)
            if call is None:
                call = self._begin(method, body, handles, end, me)
            while call.answer is None and call.error is None:
                if self._gone or self._ended is not None:
                    self._check_open()
                if not self._wait(call, end, me) and not call.done:
                    raise unanswered(method)
        except BaseException as error:
            if call is not None:
                (self._calls.put_off if type(error) is TimeoutError else self._calls.abandon)(call)
            raise
        # The error first: an answer that fails has one before it is closed.
        return (call.error is None and call.answer) or call.result()

    def _begin(
        self, method: Method, body: bytes, handles: list[Handle], end: float | None, me: object
    ) -> Call:
        """Send a request and return its call."""
        call = self._calls.begin(method)
        try:
            self._send(datagram(method, body, call.txid), handles, end, me)
        except BaseException as error:
            # After an exception such as a KeyboardInterrupt it is unknown whether the request was sent.
            (self._calls.forget if isinstance(error, Exception) else self._calls.abandon)(call)
            raise
        return call

    def _send(self, data: bytes, handles: list[Handle], end: float | None, me: object) -> None:
        """Send one datagram. Wait while the queue is full."""
        if self._gone or self._ended is not None:
            self._check_open()
        while not self._sent(data, handles, end, me):
            if not self._wait_for_room(end, me):
                raise TimeoutError("the daemon accepted no message in time; nothing was sent")
            self._check_open()

    def _sent(self, data: bytes, handles: list[Handle], end: float | None, me: object) -> bool:
        """Send one datagram if there is room. Return whether it was sent."""
        try:
            return bool(self._channel.send(data, handles))
        except PeerClosedError:
            # The daemon's last messages have arrived, or another thread is receiving them.
            while self._ended is None and self._is_first(me) and self._wait(None, end, me):
                pass
            self._check_open()
            raise

    def _wait_closed(self, end: float | None, me: object) -> bool:
        self._check_first(me)
        while self._ended is None:
            self._check_own()
            if not self._wait(None, end, me):
                break
        self._check_own()
        return self._ended is not None

    # --- waiting --------------------------------------------------------------------------------------------------

    def _is_first(self, me: object) -> bool:
        """Return whether this thread has no other running call, which a signal handler would have interrupted."""
        if len(self._inside) == 1:
            return True  # the only one is this call
        thread = threading.get_ident()
        return all(who is me or inside != thread for who, inside in tuple(self._inside.items()))

    def _check_first(self, me: object) -> None:
        if not self._is_first(me):
            raise RuntimeError(
                "a signal handler can't wait for an answer on the object whose call it has interrupted; "
                "close() and release() are possible"
            )

    def _wait(self, call: Call | None, end: float | None, me: object) -> bool:
        """Receive a datagram, or wait until another thread does. Return False if the deadline passes first."""
        try:
            if self._lead.setdefault(None, me) is me:
                return self._receive(end)
        finally:
            if None in self._lead and self._lead[None] is me:  # without a function call, as above
                del self._lead[None]
        return self._follow(call, end)

    def _receive(self, end: float | None) -> bool:
        """Wait for a datagram and process it. Return False if the deadline passes first."""
        # Block in the kernel only if there is no other thread, because receiving holds the lock that a fork needs.
        if end is None and self._may_block and not _thread._count():
            if self._take_in(wait=True):
                return True
            self._may_block = False  # another process has made the socket non-blocking
        while _poll(self._channel.fileno(), select.POLLIN, remaining(end)):
            if self._take_in():
                return True
        return False

    def _follow(self, call: Call | None, end: float | None) -> bool:
        """Wait until another thread has received the response or stops leading. Return False if it is too late."""
        turn = threading.Lock()
        turn.acquire()
        me = turn if call is None else call
        try:
            self._followers[me] = turn
            # The leader may have left, or received our response, before our lock was in the dictionary.
            if not self._lead or self._ended or self._gone or (call is not None and call.done):
                return True
            left = remaining(end)
            return turn.acquire(timeout=-1 if left is None else min(left, threading.TIMEOUT_MAX))
        finally:
            if me in self._followers:
                del self._followers[me]

    def _wait_for_room(self, end: float | None, me: object) -> bool:
        """Wait until sending is possible; receive meanwhile unless another thread does. Return False if too late."""
        try:
            leading = self._is_first(me) and self._lead.setdefault(None, me) is me
            events = select.POLLOUT | (select.POLLIN if leading else select.POLLRDHUP)
            ready = _poll(self._channel.fileno(), events, remaining(end))
            if leading and ready & select.POLLIN:
                while self._ended is None and self._take_in():
                    pass
        finally:
            if None in self._lead and self._lead[None] is me:
                del self._lead[None]
        return bool(ready)

    def _wake(self, follower: object) -> None:
        turn = self._followers.get(follower)
        if turn is not None:
            with contextlib.suppress(RuntimeError):  # the lock is already released
                turn.release()

    def _wake_all(self) -> None:
        for follower in tuple(self._followers):
            self._wake(follower)

    # --- receiving ------------------------------------------------------------------------------------------------

    def _take_in(self, *, wait: bool = False) -> bool:
        """Receive a datagram, if there is one, and give it to the call that it answers; for who leads."""
        try:
            came = self._calls.take_in(self._channel, wait=wait)
        except (PeerClosedError, MalformedMessage) as error:
            self._end(error)
            return True
        except BaseException:
            self._wake_all()  # the answer may have been another thread's
            raise
        if isinstance(came, Call) and self._followers:
            self._wake(came)
        return bool(came)

    def _end(self, error: PeerClosedError | MalformedMessage) -> None:
        """Mark the channel as ended, and wake all waiting threads."""
        if isinstance(error, MalformedMessage):
            ended = PeerClosedError(f"the daemon broke the protocol: {error}")
            ended.__cause__ = error
            error = ended
        self._ended = self._calls.ended(error)
        self._wake_all()

    def broken(self, error: ValueError) -> PeerClosedError:
        """Close the channel because a response is invalid, and return the exception to raise."""
        self._end(MalformedMessage(str(error)))
        return PeerClosedError(f"the daemon's response can't be decoded: {error}")

    @property
    def reason(self) -> str | None:
        """The last reason that the daemon sent."""
        return self._calls.reason

    def told_before(self) -> str | None:
        """Return the reason for the end of this channel, if it has ended and the daemon sent a reason."""
        if not self._gone:
            self._within(self._look)
        return None if self._ended is None else self._ended.reason

    def _look(self, me: object) -> None:
        """Receive what has arrived, unless another thread does."""
        while self._ended is None and not self._lead:
            if not self._wait(None, deadline(0), me):
                break

    def came_from(self, reason: str | None) -> None:
        """Set the reason of the failure of the token from which this channel was created."""
        self._calls.origin = reason

    # --- closing and the descriptor -------------------------------------------------------------------------------

    def _check_own(self) -> None:
        if self._gone:
            raise HandleClosedError(f"this client end {self._gone}")

    def _check_open(self) -> None:
        self._check_own()
        if self._ended is not None:
            raise self._ended.again() from self._ended.__cause__

    @property
    def closed(self) -> bool:
        """Whether this end was closed or given away."""
        return self._gone is not None

    def close(self) -> None:
        """Close this end. Threads that wait on it get a HandleClosedError. Idempotent.

        It takes no lock and never waits, so a signal handler may call it too.
        """
        self._gone = self._gone or CLOSED
        if self._inside:
            self._channel.shut_down()
            self._wake_all()
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        """Close the descriptor if this end is closed and no thread is inside a call."""
        if not self._inside:
            self._channel.close()
            self._calls.clear()

    def lose(self, why: str) -> None:
        """Close this end in a forked child, in which none of the other threads run. The parent keeps its descriptor."""
        self._gone = self._gone or why
        for left in (self._inside, self._lead, self._followers):
            left.clear()
        self._close_if_unused()

    @property
    def outstanding(self) -> bool:
        """Whether responses are outstanding, including those of abandoned calls."""
        return self._calls.outstanding

    def fileno(self) -> int:
        """Return the descriptor. This end keeps ownership."""
        self._check_own()
        return self._channel.fileno()

    def peer_name(self) -> bytes:
        """Return the name that the daemon gave to its end; empty before that."""
        self._check_own()
        return self._channel.peer_name()

    def check_unused(self) -> None:
        """Raise `RuntimeError` while another thread waits on this end."""
        self._check_own()
        if self._inside:
            raise RuntimeError("another thread waits on this channel; it can't be given away")

    def take(self) -> int:
        """Give up ownership of the descriptor and return it; otherwise as :meth:`take_socket`."""
        return self.take_socket().detach()

    def take_socket(self) -> socket.SocketType:
        """Give up ownership of the socket and return it. Raises `RuntimeError` while another thread waits on it."""
        self.check_unused()
        self._gone = CLOSED
        self._calls.clear()
        return self._channel.take_socket()


def _poll(fd: int, events: int, seconds: float | None) -> int:
    """Return the events that a descriptor is ready for, or 0 after this many seconds."""
    poll = select.poll()
    poll.register(fd, events)
    ready = poll.poll(milliseconds(seconds))
    return ready[0][1] if ready else 0
