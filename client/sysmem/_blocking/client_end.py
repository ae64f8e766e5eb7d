"""A client end whose callers wait in threads.

One of the threads that wait leads: it receives for all, and answers go to whose they are. A leader that has its own
answer leaves, and wakes one of the others to lead. So no thread of our own and no further descriptor is needed, and a
program with one thread only sends and receives.

The lock guards all state; nobody waits for the channel with the lock held. While a thread is inside such a wait the
descriptor isn't closed under it: `close()` wakes it, and the last one to come out closes.
"""

from __future__ import annotations

import select
import threading

from sysmem_protocol.channel import Channel, DescriptorsLost, PeerClosedError
from sysmem_protocol.handles import Handle, HandleClosedError
from sysmem_protocol.library import Method, Table
from sysmem_protocol.message import MalformedMessage

from .._calls import Answer, Call, Calls, datagram, encode_request
from .._process import this_process
from .._timeouts import deadline as deadline_after
from .._timeouts import milliseconds, remaining

#: Connecting may wait for the daemon, as everything here may.
CONNECT_MAY_WAIT = True


class ClientEnd:
    """One end of a channel to the daemon, for any number of threads."""

    __slots__ = (
        "_calls",
        "_channel",
        "_closed",
        "_ended",
        "_followers",
        "_inside",
        "_leading",
        "_lock",
        "_process",
    )

    def __init__(self, fd: int) -> None:
        """Become the owner of `fd`."""
        self._channel = Channel(fd)
        self._calls = Calls()
        self._lock = threading.Lock()
        self._leading = False
        #: Locks that waiting threads sleep on, each released to wake its thread.
        self._followers: dict[object, threading.Lock] = {}
        #: Threads in a wait for the channel.
        self._inside = 0
        #: The process that all this is about.
        self._process = this_process()
        self._closed = False
        #: Why nothing more can be received.
        self._ended: PeerClosedError | None = None

    # --- talking --------------------------------------------------------------------------------------------------

    def send(self, method: Method, request: Table | None, timeout: float | None) -> None:
        """Send a one-way request; the handles in it stay the table's."""
        deadline = deadline_after(timeout)
        body, handles = encode_request(method, request)
        with self._locked():
            self._send(datagram(method, body), handles, deadline)

    def call(self, method: Method, request: Table | None, timeout: float | None) -> Answer:
        """Send a request and wait for its answer, which the caller then owns. Handles as in :meth:`send`."""
        deadline = deadline_after(timeout)
        body, handles = encode_request(method, request)
        with self._locked():
            call = self._calls.resume(method) or self._begin(method, body, handles, deadline)
            try:
                while not call.done:
                    self._check_open()
                    if not self._wait(call, deadline) and not call.done:
                        raise TimeoutError(f"{method.name}() wasn't answered in time")
            except TimeoutError:
                self._calls.put_off(call)
                raise
            except BaseException:
                self._calls.abandon(call)
                raise
            finally:
                self._hand_over()
            return call.result()

    def wait_closed(self, timeout: float | None) -> bool:
        """Wait until the other end is closed and all that it sent has been received."""
        deadline = deadline_after(timeout)
        me = object()
        with self._locked():
            try:
                while self._ended is None:
                    self._check_own()
                    if not self._wait(me, deadline):
                        return self._ended is not None
            finally:
                self._hand_over()
        self._check_own()
        return True

    def _locked(self) -> threading.Lock:
        """The lock, to be held by a with-block."""
        if self._process is not this_process():
            # We are the child of a fork. It took none of the other threads along, but what they were at, and the lock
            # if one of them held it.
            self._process = this_process()
            self._lock = threading.Lock()
            self._leading = False
            self._followers.clear()
            self._inside = 0
            self._calls.abandon_all()
        return self._lock

    def _begin(
        self, method: Method, body: bytes, handles: list[Handle], deadline: float | None
    ) -> Call:
        """Send a request; its call. The lock is held."""
        call = self._calls.begin(method)
        try:
            self._send(datagram(method, body, call.txid), handles, deadline)
        except Exception:
            self._calls.forget(call)
            raise
        except BaseException:  # a KeyboardInterrupt; who knows whether it was sent
            self._calls.abandon(call)
            raise
        return call

    def _send(self, data: bytes, handles: list[Handle], deadline: float | None) -> None:
        """Send one datagram, waiting while the queue is full. The lock is held."""
        self._check_open()
        while not self._sent(data, handles, deadline):
            try:
                if not self._wait_for_room(deadline):
                    raise TimeoutError("the daemon took no message in time; nothing was sent")
            finally:
                self._hand_over()
            self._check_open()

    def _sent(self, data: bytes, handles: list[Handle], deadline: float | None) -> bool:
        """Send one datagram if there is room. The lock is held."""
        try:
            return bool(self._channel.send(data, handles))
        except PeerClosedError:
            # What the daemon said last has come, or another thread is receiving it.
            while self._ended is None and self._wait(object(), deadline):
                pass
            self._check_open()
            raise

    # --- waiting; the lock is held before and after, not within --------------------------------------------------

    def _wait(self, me: object, deadline: float | None) -> bool:
        """Receive a datagram, or wait for what another thread receives. False when it is too late."""
        if self._leading:
            return self._follow(me, deadline)
        try:
            arrived = self._lead(deadline)
        except DescriptorsLost as error:
            self._dispatch(error.data, None)
            return True
        except (PeerClosedError, MalformedMessage) as error:
            self._end(error)
            return True
        if arrived is None:
            return False
        self._dispatch(*arrived)
        return True

    def _lead(self, deadline: float | None) -> tuple[bytes, list[Handle]] | None:
        channel = self._channel
        self._inside += 1
        self._leading = True
        try:
            self._lock.release()
            if deadline is None:
                arrived = channel.receive(wait=True)
                while arrived is None:  # the descriptor is a non-blocking one
                    _poll(channel.fileno(), select.POLLIN, None)
                    arrived = channel.receive()
                return arrived
            while _poll(channel.fileno(), select.POLLIN, remaining(deadline)):
                arrived = channel.receive()
                if arrived is not None:
                    return arrived
            return None
        finally:
            try:
                self._lock.acquire()
            finally:  # without calls, so that a KeyboardInterrupt has no way in
                self._inside -= 1
                self._leading = False
            self._close_if_last()

    def _follow(self, me: object, deadline: float | None) -> bool:
        turn = threading.Lock()
        turn.acquire()
        self._followers[me] = turn
        self._lock.release()
        try:
            left = remaining(deadline)
            return turn.acquire(timeout=-1 if left is None else min(left, threading.TIMEOUT_MAX))
        finally:
            self._lock.acquire()
            self._followers.pop(me, None)

    def _wait_for_room(self, deadline: float | None) -> bool:
        """Wait until something may be sent, and receive meanwhile unless another thread does. False: too late."""
        leading = not self._leading
        events = select.POLLOUT | (select.POLLIN if leading else select.POLLRDHUP)
        self._inside += 1
        self._leading = True
        try:
            self._lock.release()
            ready = _poll(self._channel.fileno(), events, remaining(deadline))
        finally:
            try:
                self._lock.acquire()
            finally:
                self._inside -= 1
                if leading:
                    self._leading = False
            self._close_if_last()
        if leading and ready & select.POLLIN and not self._closed and not self._ended:
            try:
                while (arrived := self._channel.receive()) is not None:
                    self._dispatch(*arrived)
            except DescriptorsLost as error:
                self._dispatch(error.data, None)
            except (PeerClosedError, MalformedMessage) as error:
                self._end(error)
        return bool(ready)

    def _close_if_last(self) -> None:
        """Close the descriptor if `close()` left that to those who were inside a wait."""
        if self._closed and not self._inside:
            self._channel.close()

    # --- what came ------------------------------------------------------------------------------------------------

    def _dispatch(self, data: bytes, handles: list[Handle] | None) -> None:
        """Give a datagram to the call that it answers; without its handles if they are lost."""
        if self._closed:
            for handle in handles or ():
                handle.close()
            return
        try:
            call = self._calls.lost(data) if handles is None else self._calls.arrived(data, handles)
        except MalformedMessage as error:
            self._end(error)
            return
        if call is not None and self._followers:
            self._wake(call)

    def _end(self, error: PeerClosedError | MalformedMessage) -> None:
        """Nothing more comes: everybody is told."""
        if isinstance(error, MalformedMessage):
            ended = PeerClosedError(f"the daemon broke the protocol: {error}")
            ended.__cause__ = error
            error = ended
        self._ended = self._calls.ended(error)
        self._wake_all()

    def broken(self, error: ValueError) -> PeerClosedError:
        """An answer can't be read: use the channel no more. What to raise for it."""
        with self._locked():
            self._end(MalformedMessage(str(error)))
        return PeerClosedError(f"the daemon's answer can't be read: {error}")

    @property
    def reason(self) -> str | None:
        """The reason that the daemon told last."""
        return self._calls.reason

    def told_before(self) -> str | None:
        """Return the reason for the end of this channel, if it has ended and that was told."""
        with self._locked():
            while not self._closed and not self._leading and self._ended is None:
                if not self._wait(object(), deadline_after(0)):
                    break
            return None if self._ended is None else self._ended.reason

    def came_from(self, reason: str | None) -> None:
        """Note why the token had failed that this channel was made from."""
        self._calls.origin = reason

    def _wake(self, follower: object) -> None:
        turn = self._followers.pop(follower, None)
        if turn is not None:
            turn.release()

    def _wake_all(self) -> None:
        for follower in list(self._followers):
            self._wake(follower)

    def _hand_over(self) -> None:
        """Let one of those who wait lead, when nobody does."""
        if self._followers and not self._leading:
            self._wake(next(iter(self._followers)))

    # --- the end and the descriptor -------------------------------------------------------------------------------

    def _check_own(self) -> None:
        if self._closed:
            raise HandleClosedError("this client end is closed or was given away")

    def _check_open(self) -> None:
        self._check_own()
        if self._ended is not None:
            raise self._ended.again() from self._ended.__cause__

    @property
    def closed(self) -> bool:
        """Whether this end was closed or given away."""
        return self._closed

    def close(self) -> None:
        """Close this end; threads that wait on it get a HandleClosedError. Idempotent."""
        with self._locked():
            if self._closed:
                return
            self._closed = True
            self._calls.clear()
            self._wake_all()
            if self._inside:
                self._channel.shutdown_receiving()
            else:
                self._channel.close()

    @property
    def outstanding(self) -> bool:
        """Whether answers are still to come, also of calls that nobody waits for any more."""
        return self._calls.outstanding

    def fileno(self) -> int:
        """The descriptor, still owned by this end."""
        self._check_own()
        return self._channel.fileno()

    def peer_name(self) -> bytes:
        """The name that the daemon gave its end, empty until then."""
        self._check_own()
        return self._channel.peer_name()

    def take(self) -> int:
        """Give the descriptor away. Raises `RuntimeError` while another thread waits on it."""
        with self._locked():
            self._check_own()
            if self._inside:
                raise RuntimeError("another thread waits on this channel; it can't be given away")
            self._closed = True
            self._calls.clear()
            return self._channel.take()


def _poll(fd: int, events: int, seconds: float | None) -> int:
    """The events that a descriptor is ready for; 0 when there are none in time."""
    poll = select.poll()
    poll.register(fd, events)
    ready = poll.poll(milliseconds(seconds))
    return ready[0][1] if ready else 0
