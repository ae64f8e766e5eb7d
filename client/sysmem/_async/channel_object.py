"""The base class of all objects that own a channel, with their communication with the daemon."""

from __future__ import annotations

import socket
from typing import Any, ClassVar, Self, TypeVar

from sysmem_protocol import sysmem2 as m
from sysmem_protocol.channel import PeerClosedError
from sysmem_protocol.codec import DecodeError, Decoder
from sysmem_protocol.handles import Handle
from sysmem_protocol.kinds import describe, is_seqpacket
from sysmem_protocol.library import HandleKind, HandleType, Interface, Method, Table
from sysmem_protocol.message import Message
from sysmem_protocol.owner import FORKED, Owner, channel_of, lost_by_forks, new_pair

from .._arguments import descriptor
from .._buffers import BufferCollectionInfo, VmoBuffer, VmoInfo
from .._calls import Answer
from .._errors import SysmemError
from .._handles import Arrived, NodeRef
from .._vmo import Vmo
from .client_end import ClientEnd
from .events import AsyncEventPair
from .with_block import WithBlock

T = TypeVar("T")
Made = TypeVar("Made", bound="ChannelObject | AsyncEventPair")

_decoder = Decoder(
    tables={
        m.BufferCollectionInfo: BufferCollectionInfo,
        m.VmoBuffer: VmoBuffer,
        m.VmoInfo: VmoInfo,
    },
    handles={
        HandleKind.VMO: Vmo,
        HandleKind.EVENTPAIR: AsyncEventPair,
        HandleKind.EVENT: NodeRef,
        HandleKind.CLIENT_END: Arrived,
    },
)


class ChannelObject(Owner, WithBlock):
    """The client end of a channel to the daemon.

    It belongs to the process that created it: in a forked child it is closed. See :meth:`detach`.
    """

    __slots__ = ("_end",)
    _instead = "detach() and from_fd() give it to another process"
    _interface: ClassVar[type[Interface]]

    def __init__(self, owned: int | socket.SocketType) -> None:
        """Take ownership of a descriptor, unchecked (:meth:`from_fd` checks it), or of a socket."""
        self._end = ClientEnd(owned, self._interface)
        lost_by_forks(self)

    @classmethod
    def from_fd(cls, fd: int) -> Self:
        """Return an object that owns a client end, for example one that came from another process.

        Args:
            fd: The descriptor. The object owns it from now on, unless this raises.

        Raises:
            TypeError: `fd` is not a number. For a socket object, pass the result of its `detach()`.
            ValueError: The descriptor can't be a client end.
        """
        number = descriptor(fd)
        check_client_end(number)
        return cls(number)

    @classmethod
    def _of(cls, end: Handle) -> Self:
        """Return an object for a client end that was received."""
        with end:
            made = channel_of(end.fileno())
            return cls(made.made[0])

    # --- the descriptor -------------------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor. This object still owns it."""
        return self._end.fileno()

    def detach(self) -> int:
        """Return the descriptor and give up ownership, to pass it to another process. This object is closed.

        Close the number here (`os.close`) as soon as it is passed on. As long as it is open in any process, the daemon
        treats the participant as alive, so the others wait for it even if it has died. `send()` of tokens does this for
        you.

        A plain number has no owner: a KeyboardInterrupt after this returns and before the caller has stored it leaves
        the descriptor open. If that matters, use `send()`, `offer()` or multiprocessing, which always keep an owner.

        Raises:
            RuntimeError: Another thread or task waits on this object.
        """
        return self._end.take()

    @property
    def closed(self) -> bool:
        """Whether this object is closed, consumed or detached."""
        return self._end.closed

    def close(self) -> None:
        """Close this end. A node that was not released fails. Idempotent.

        Calls that wait on this object raise `HandleClosedError`. It never waits, so a signal handler may call it.
        """
        self._end.close()

    @property
    def reason(self) -> str | None:
        """Why the daemon answered with an error or closed the channel, in one line; None if it is not known.

        It is set when a call has raised the error, or :meth:`wait_closed` has returned True.
        """
        return self._end.reason

    async def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait until the daemon closes its end. Return True, or False if `timeout` seconds have passed.

        Other calls on this object still get their responses meanwhile.

        Cancellation: nothing is lost.
        """
        return await self._end.wait_closed(timeout)

    @property
    def server_koid(self) -> int:
        """The daemon's number for its end of this channel; 0 if it is not known yet.

        It is known when the daemon has processed the message that created the channel.
        """
        number = self._end.peer_name().rpartition(b"/")[2]
        return int(number) if number.isdigit() else 0

    def _is_settled(self) -> bool:
        """Return whether no late response can arrive, so that the channel may move to another process."""
        return not self._end.outstanding

    def _check_unused(self) -> None:
        """Raise `RuntimeError` while another thread or task waits on this object."""
        self._end.check_unused()

    def _lose(self, why: str = FORKED) -> None:
        self._end.lose(why)

    # --- communication --------------------------------------------------------------------------------------------

    async def _send(self, method: Method, request: Table | None, timeout: float | None) -> None:
        """Send a one-way request. The caller keeps ownership of the handles in it."""
        await self._end.send(method, request, timeout)

    async def _send_last(self, method: Method, timeout: float | None) -> None:
        """Send a one-way request, and close this end."""
        try:
            await self._end.send(method, None, timeout)
        except PeerClosedError:
            self.close()
            raise
        self.close()

    async def _call(self, method: Method, request: Table | None, timeout: float | None) -> Any:
        """Send a request, wait for its response, and return the response table, or None if it is empty."""
        return self._answer(method, await self._end.call(method, request, timeout))

    def _answer(self, method: Method, message: Message) -> Any:
        """Decode the response to a call and take ownership of its handles. Raises as :meth:`_call`."""
        try:
            answer = _decoder.response(method, message.body, message.handles)
        except DecodeError as error:
            raise self._end.broken(error) from error
        if isinstance(answer, int):
            raise SysmemError(answer, *(message.told if isinstance(message, Answer) else ()))
        return answer

    def _field(self, answer: Any, name: str, kind: type[T]) -> T:
        """Return a field of a response that is always set."""
        value = getattr(answer, name)
        if not isinstance(value, kind):
            raise self._end.broken(ValueError(f"{name} is missing"))
        return value

    async def _open(
        self, made: type[Made], method: Method, timeout: float | None, **fields: Any
    ) -> Made:
        """Create a channel, send its server end in a request, and return an object for the client end.

        The method's declaration determines the field for the server end and the socket's type.
        """
        name, kind = _server_end(method)
        ends = new_pair(kind)
        near, far = ends.made[0]
        opened = made(near)
        try:
            with Handle(far) as server_end:
                assert method.request is not None
                request = method.request(**fields, **{name: server_end})
                await self._end.send(method, request, timeout)
        except BaseException:
            opened.close()
            raise
        return opened


def check_client_end(fd: int) -> None:
    """Raise `ValueError` if a descriptor can't be a client end."""
    if not is_seqpacket(fd):
        raise ValueError(f"descriptor {fd} is {describe(fd)}, not the client end of a channel")


def _server_end(method: Method) -> tuple[str, socket.SocketKind]:
    """Return a request's field for the server end, and the socket's type."""
    assert method.request is not None
    for member in method.request.members:
        match member.field.type:
            case HandleType(kind=HandleKind.SERVER_END):
                return member.name, socket.SOCK_SEQPACKET
            case HandleType(kind=HandleKind.EVENTPAIR):
                return member.name, socket.SOCK_STREAM
    raise TypeError(f"{method} takes no server end")
