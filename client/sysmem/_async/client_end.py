"""A client end whose callers wait in tasks, under trio or asyncio."""

from __future__ import annotations

import anyio
import anyio.lowlevel

from sysmem_protocol.channel import Channel, DescriptorsLost, PeerClosedError
from sysmem_protocol.handles import Handle, HandleClosedError
from sysmem_protocol.library import Method, Table
from sysmem_protocol.message import MalformedMessage

from .._calls import Answer, Call, Calls, datagram, encode_request
from .._timeouts import seconds
from .sleepers import Sleepers

#: Connecting must not hold up other tasks.
CONNECT_MAY_WAIT = False


class ClientEnd:
    """One end of a channel to the daemon, for any number of tasks of one event loop."""

    __slots__ = ("_calls", "_channel", "_closed", "_ended", "_sleepers")

    def __init__(self, fd: int) -> None:
        """Become the owner of `fd`."""
        self._channel = Channel(fd)
        self._calls = Calls()
        self._sleepers = Sleepers()
        self._closed = False
        #: Why nothing more can be received.
        self._ended: PeerClosedError | None = None

    # --- talking --------------------------------------------------------------------------------------------------

    async def send(self, method: Method, request: Table | None, timeout: float | None) -> None:
        """Send a one-way request; the handles in it stay the table's."""
        allowed = seconds(timeout)
        body, handles = encode_request(method, request)
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(allowed):
            await self._send(datagram(method, body), handles)
            return
        raise TimeoutError("the daemon took no message in time; nothing was sent")

    async def call(self, method: Method, request: Table | None, timeout: float | None) -> Answer:
        """Send a request and wait for its answer, which the caller then owns. Handles as in :meth:`send`."""
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
        raise TimeoutError(f"{method.name}() wasn't answered in time")

    async def wait_closed(self, timeout: float | None) -> bool:
        """Wait until the other end is closed and all that it sent has been received."""
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
        """Send a request; its call."""
        call = self._calls.begin(method)
        try:
            await self._send(datagram(method, body, call.txid), handles)
        except (Exception, anyio.get_cancelled_exc_class()):
            self._calls.forget(call)
            raise
        except BaseException:  # a KeyboardInterrupt; who knows whether it was sent
            self._calls.abandon(call)
            raise
        return call

    async def _send(self, data: bytes, handles: list[Handle]) -> None:
        """Send one datagram, waiting while the queue is full.

        Answers are received meanwhile by those who wait for them.
        """
        self._check_open()
        try:
            while not self._channel.send(data, handles):
                await self._sleepers.sleep(self._channel.fileno(), anyio.wait_writable)
                self._check_open()
        except PeerClosedError:
            while self._ended is None:  # the daemon may still have to say why
                self._check_own()
                await self._wait()
            self._check_open()

    async def _answer(self, call: Call) -> Answer:
        while not call.done:
            self._check_open()
            await self._wait()
        return call.result()

    async def _wait(self) -> None:
        """Wait until something was received, here or in another task."""
        if await self._sleepers.sleep(self._channel.fileno(), anyio.wait_readable):
            self._receive()

    # --- what came ------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        """Take in all that has come. Only while no other task sleeps until something comes."""
        try:
            while not self._closed and self._ended is None:
                try:
                    arrived = self._channel.receive()
                except DescriptorsLost as error:
                    self._calls.lost(error.data)
                    continue
                if arrived is None:
                    return
                self._calls.arrived(*arrived)
        except PeerClosedError as error:
            self._end(error)
        except MalformedMessage as error:
            self.broken(error)

    def _end(self, error: PeerClosedError) -> None:
        self._ended = self._calls.ended(error)

    def broken(self, error: ValueError) -> PeerClosedError:
        """What came can't be read: use the channel no more. What to raise for it."""
        ended = PeerClosedError(f"the daemon broke the protocol: {error}")
        ended.__cause__ = error
        self._end(ended)
        return ended

    @property
    def reason(self) -> str | None:
        """The reason that the daemon told last."""
        return self._calls.reason

    def told_before(self) -> str | None:
        """Return the reason for the end of this channel, if it has ended and that was told."""
        if not self._closed and not self._sleepers.reading:
            self._receive()
        return None if self._ended is None else self._ended.reason

    def came_from(self, reason: str | None) -> None:
        """Note why the token had failed that this channel was made from."""
        self._calls.origin = reason

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
        """Close this end; tasks that wait on it get a HandleClosedError. Idempotent."""
        if not self._closed:
            self._closed = True
            self._calls.clear()
            self._sleepers.close(self._channel.fileno(), self._channel.close)

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
        """Give the descriptor away. Raises `RuntimeError` while another task waits on it."""
        self._check_own()
        if self._sleepers.any:
            raise RuntimeError("another task waits on this channel; it can't be given away")
        self._closed = True
        self._calls.clear()
        return self._channel.take()
