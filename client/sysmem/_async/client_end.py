"""A client end whose callers wait in tasks, under trio or asyncio."""

from __future__ import annotations

import socket

import anyio
import anyio.lowlevel

from sysmem_protocol.channel import AT_ONCE, Channel, PeerClosedError
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Interface, Method, Table
from sysmem_protocol.message import MalformedMessage
from sysmem_protocol.owner import CLOSED, HandleClosedError

from .._calls import Answer, Call, Calls, datagram, encode_request, unanswered
from .._handles import Arrived
from .._timeouts import seconds
from .._trace import traced
from .sleepers import Sleepers

#: Connecting must not block other tasks.
CONNECT_MAY_WAIT = False


class ClientEnd:
    """One end of a channel to the daemon, for any number of tasks of one event loop."""

    __slots__ = ("_calls", "_channel", "_ended", "_gone", "_sleepers")

    def __init__(self, owned: int | socket.SocketType, interface: type[Interface]) -> None:
        """Take ownership of a descriptor or a socket, on which a protocol is spoken."""
        #: The reason why this end can no longer be used.
        self._gone: str | None = None
        #: The reason why nothing more can be received.
        self._ended: PeerClosedError | None = None
        self._calls = Calls()
        self._channel = (
            Channel(owned, AT_ONCE, Arrived) if traced is None else traced(owned, interface)
        )
        # Shutting a channel down wakes its waiters. The event loop could do that too, but not in a signal handler or
        # another thread.
        channel, calls = self._channel, self._calls

        def close() -> None:  # without a reference to this object, to avoid a reference cycle
            channel.close()
            calls.clear()

        self._sleepers = Sleepers(channel.fileno, channel.shut_down, close)

    # --- communication --------------------------------------------------------------------------------------------

    async def send(self, method: Method, request: Table | None, timeout: float | None) -> None:
        """Send a one-way request. The table keeps ownership of its handles."""
        allowed = seconds(timeout)
        body, handles = encode_request(method, request)
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(allowed):
            await self._send(datagram(method, body), handles)
            return
        raise TimeoutError("the daemon accepted no message in time; nothing was sent")

    async def call(self, method: Method, request: Table | None, timeout: float | None) -> Answer:
        """Send a request as :meth:`send` does, wait for its response and return it. The caller owns the response."""
        allowed = seconds(timeout)
        body, handles = encode_request(method, request)
        await anyio.lowlevel.checkpoint_if_cancelled()
        with anyio.move_on_after(allowed):
            call = self._calls.resume(method) or await self._begin(method, body, handles)
            try:
                return await self._answer(call)
            except anyio.get_cancelled_exc_class():
                self._calls.put_off(call)
                raise
            except BaseException:
                self._calls.abandon(call)
                raise
        raise unanswered(method)

    async def wait_closed(self, timeout: float | None) -> bool:
        """Wait until the other end is closed and everything that it sent has been received."""
        allowed = seconds(timeout)
        self._check_own()
        await anyio.lowlevel.checkpoint()
        if not self._sleepers.reading:
            self._receive()
        with anyio.move_on_after(allowed):
            while self._ended is None:
                self._check_own()
                await self._wait()
        self._check_own()
        return self._ended is not None

    async def _begin(self, method: Method, body: bytes, handles: list[Handle]) -> Call:
        """Send a request and return its call."""
        call = self._calls.begin(method)
        try:
            await self._send(datagram(method, body, call.txid), handles)
        except (Exception, anyio.get_cancelled_exc_class()):
            self._calls.forget(call)
            raise
        except BaseException:  # a KeyboardInterrupt: it is unknown whether the request was sent
            self._calls.abandon(call)
            raise
        return call

    async def _send(self, data: bytes, handles: list[Handle]) -> None:
        """Send one datagram. Wait while the queue is full.

        Meanwhile the tasks that wait for responses receive them.
        """
        self._check_open()
        try:
            while not self._channel.send(data, handles):
                await self._sleepers.sleep(anyio.wait_writable)
                self._check_open()
        except PeerClosedError:
            while self._ended is None:  # the daemon may still send the reason
                self._check_own()
                await self._wait()
            self._check_open()

    async def _answer(self, call: Call) -> Answer:
        while not call.done:
            self._check_open()
            await self._wait()
        return call.result()

    async def _wait(self) -> None:
        """Wait until something was received, by this task or another."""
        if await self._sleepers.sleep(anyio.wait_readable):
            self._receive()

    # --- receiving ------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Receive everything that has arrived. Must not be called while another task sleeps until something arrives."""
        self._sleepers.use(self._take_in)

    def _take_in(self) -> None:
        try:
            while not self._gone and self._ended is None:
                if not self._calls.take_in(self._channel):
                    return
        except PeerClosedError as error:
            self._end(error)
        except MalformedMessage as error:
            self.broken(error)

    def _end(self, error: PeerClosedError) -> None:
        self._ended = self._calls.ended(error)

    def broken(self, error: ValueError) -> PeerClosedError:
        """Close the channel because a received message is invalid, and return the exception to raise."""
        ended = PeerClosedError(f"the daemon broke the protocol: {error}")
        ended.__cause__ = error
        self._end(ended)
        return ended

    @property
    def reason(self) -> str | None:
        """The last reason that the daemon sent."""
        return self._calls.reason

    def told_before(self) -> str | None:
        """Return the reason for the end of this channel, if it has ended and the daemon sent a reason."""
        if not self._gone and not self._sleepers.reading:
            self._receive()
        return None if self._ended is None else self._ended.reason

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
        """Close this end. Tasks that wait on it get a HandleClosedError. Idempotent.

        It never waits, and may be called by a signal handler and in any thread.
        """
        self._gone = self._gone or CLOSED
        self._sleepers.close()

    def lose(self, why: str) -> None:
        """Close this end in a forked child, in which none of the tasks run. The parent keeps its descriptor."""
        self._gone = self._gone or why
        self._channel.close()
        self._calls.clear()

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
        """Raise `RuntimeError` while another task waits on this end."""
        self._check_own()
        if self._sleepers.any:
            raise RuntimeError("another task waits on this channel; it can't be given away")

    def take(self) -> int:
        """Give up ownership of the descriptor and return it; otherwise as :meth:`take_socket`."""
        return self.take_socket().detach()

    def take_socket(self) -> socket.SocketType:
        """Give up ownership of the socket and return it. Raises `RuntimeError` while another task waits on it."""
        self.check_unused()
        self._gone = CLOSED
        self._calls.clear()
        return self._channel.take_socket()
