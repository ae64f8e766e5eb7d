"""Passing tokens to other processes: over a socket of the program, or by name through the daemon."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

# of the async face only
import anyio.lowlevel

from sysmem_protocol import rendezvous
from sysmem_protocol.channel import Channel
from sysmem_protocol.handles import Handle
from sysmem_protocol.library import Method, Table

from .. import _passing
from .._calls import last_message
from .._errors import HandleClosedError, PeerClosedError, SysmemError
from .._handles import Arrived
from .channel_object import ChannelObject
from .readiness import readable, writable

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike, ReadableBuffer


async def send(
    sock: FileDescriptorLike, data: ReadableBuffer, handles: list[Handle], deadline: float | None
) -> None:
    """Send the handles with data. The list is empty afterwards if the handles were sent. The caller owns the rest."""
    rest = _passing.checked(data)
    # of the async face only
    await anyio.lowlevel.checkpoint()

    with closing(_passing.channel_over(sock)) as channel:
        while rest:
            if sent := _passing.send(channel, rest, handles):
                rest = rest[sent:]  # a stream socket with a small send buffer takes only a part
                handles.clear()
            elif not await writable(channel.fileno(), deadline):
                raise TimeoutError("the socket had no room for the token in time")


async def receive(sock: FileDescriptorLike, deadline: float | None) -> tuple[Handle, bytes]:
    """Receive one descriptor and its data, and return them. The caller owns the descriptor."""
    # of the async face only
    await anyio.lowlevel.checkpoint()

    with closing(_passing.channel_over(sock)) as channel:
        while (arrived := _passing.receive(channel)) is None:
            if not await readable(channel.fileno(), deadline):
                raise TimeoutError("no token arrived in time")
        return arrived


class Rendezvous(ChannelObject):
    """A connection to the daemon's Rendezvous service for one call. Closing it ends the offer or the wait."""

    __slots__ = ("answered",)
    _interface = rendezvous.Rendezvous

    def __init__(self, owned: int | socket.SocketType) -> None:
        super().__init__(owned)
        #: Whether the call succeeded, even if an exception prevented it from returning.
        self.answered = False

    async def ask(
        self, method: Method, request: Table, timeout: float | None, too_late: str
    ) -> Any:
        """Make the call, and close the connection. A response that arrives at the last moment counts.

        Cancellation: the offer or wait ends. If the response had arrived by then, `answered` is true, and a token in it
        is closed.
        """
        try:
            answer = await self._call(method, request, timeout)
        except BaseException as error:
            answer = self._last_answer(method)
            if isinstance(error, TimeoutError):
                if self.answered:
                    return answer
                raise TimeoutError(too_late) from None
            if answer is not None and answer.token is not None:
                answer.token.close()
            raise
        self.answered = True
        return answer

    def _last_answer(self, method: Method) -> Any:
        """Close this end. Return the response if it had arrived and is not an error."""
        try:
            message = last_message(Channel(self._end.take_socket(), handle=Arrived))
            answer = None if message is None else self._answer(method, message)
        except (HandleClosedError, SysmemError, PeerClosedError):
            return None
        self.answered = message is not None
        return answer
