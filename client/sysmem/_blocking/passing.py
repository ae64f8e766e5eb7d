# Made from _async/passing.py by client/generate_blocking.py; change that one.

"""Tokens that are passed on: over a socket of the program's own, or by name at the daemon."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

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


def send(
    sock: FileDescriptorLike, data: ReadableBuffer, handles: list[Handle], deadline: float | None
) -> None:
    """Send the handles, with data; the list is empty once they are on their way. They stay the caller's."""
    rest = _passing.checked(data)
    with closing(_passing.channel_over(sock)) as channel:
        while rest:
            if sent := _passing.send(channel, rest, handles):
                rest = rest[sent:]  # something is left where a stream's send buffer is tiny
                handles.clear()
            elif not writable(channel.fileno(), deadline):
                raise TimeoutError("the socket had no room for the token in time")


def receive(sock: FileDescriptorLike, deadline: float | None) -> tuple[Handle, bytes]:
    """Receive one descriptor, which the caller then owns, and the data that came with it."""
    with closing(_passing.channel_over(sock)) as channel:
        while (arrived := _passing.receive(channel)) is None:
            if not readable(channel.fileno(), deadline):
                raise TimeoutError("no token came in time")
        return arrived


class Rendezvous(ChannelObject):
    """A connection to the daemon's meeting place, for one call. What it offers or waits for ends with it."""

    __slots__ = ("answered",)
    _interface = rendezvous.Rendezvous

    def __init__(self, owned: int | socket.SocketType) -> None:
        super().__init__(owned)
        #: Whether the call succeeded, also if an exception kept it from returning that.
        self.answered = False

    def ask(self, method: Method, request: Table, timeout: float | None, too_late: str) -> Any:
        """Make the call, and close. An answer that comes at the last moment counts."""
        try:
            answer = self._call(method, request, timeout)
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
        """Close this end; return the answer if it had come, and was none that refuses."""
        try:
            message = last_message(Channel(self._end.take_socket(), handle=Arrived))
            answer = None if message is None else self._answer(method, message)
        except (HandleClosedError, SysmemError, PeerClosedError):
            return None
        self.answered = message is not None
        return answer
