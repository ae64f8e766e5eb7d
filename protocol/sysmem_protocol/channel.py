"""One end of a channel: datagrams with their descriptors, sent and received without blocking.

A channel is an AF_UNIX SOCK_SEQPACKET pair (`docs/spec/linux.md`, "Channels"). The caller does the waiting, with trio,
asyncio or `poll`. Nothing relies on O_NONBLOCK, because another owner of the open file description may set or clear it.
"""

from __future__ import annotations

import array
import errno
import os
import select
import socket
import struct
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .handles import Handle, drop_unread, stop_receiving
from .message import MAX_HANDLES, MAX_MESSAGE_BYTES, MalformedMessage
from .owner import HandleClosedError, Number, close_cell, no_fork, own, socket_over

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: `struct ucred`: process, user and group of a peer.
_UCRED = struct.Struct("iII")
_INT_BYTES = array.array("i").itemsize
#: For what another owner of the end may have asked for: credentials, a security label. In a buffer that they fill the
#: kernel has no room for the last descriptors, and closes them, which may take as long as they like.
_OTHER_CONTROL_BYTES = 4096
_CONTROL_BYTES = socket.CMSG_SPACE(MAX_HANDLES * _INT_BYTES) + _OTHER_CONTROL_BYTES
_RECEIVE_FLAGS = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_WAIT_FLAGS = int(socket.MSG_CMSG_CLOEXEC)
_SEND_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
#: Control data that Python has no name for: a descriptor of the sending process, installed by the kernel when the
#: socket has SO_PASSPIDFD. Whoever had the socket before may have set that.
_SCM_PIDFD = 4
_TRUNCATED = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)


class PeerClosedError(ConnectionError):
    """The other end of the channel is closed.

    Attributes:
        reason: One line that says why, as the daemon's log does; None if it isn't known.
        report: The full text about a refused negotiation: what everybody asked for, and the conflict; None if there is
            none, or it isn't known.
    """

    def __init__(
        self,
        message: str = "the peer closed the channel",
        reason: str | None = None,
        report: str | None = None,
    ) -> None:
        super().__init__(message)  # more would be an error number and a file name
        self.reason = reason
        self.report = report

    def __str__(self) -> str:
        [message] = self.args
        return f"{message}: {self.reason}" if self.reason else str(message)

    def again(self, reason: str | None = None, report: str | None = None) -> PeerClosedError:
        """Return the same error to be raised once more, with what is known of the reason by now."""
        error = PeerClosedError(self.args[0], self.reason or reason, self.report or report)
        error.__cause__ = self.__cause__
        return error


class DescriptorsLost(MalformedMessage):
    """Descriptors of a datagram were dropped by the kernel: too many, or more than this process may have open."""

    def __init__(self, data: bytes) -> None:
        super().__init__(
            "control data was truncated: more descriptors came along than a message or this process can have"
        )
        self.data = data


class Closing(Protocol):
    """How descriptors are closed that somebody else has had a hand in, which may take as long as they like."""

    def close(self, fd: int) -> None:
        """Close a descriptor that was received."""

    def close_end(self, fd: int) -> None:
        """Close one end of a socket pair, and what waits in it. The other end sees that at once."""

    def close_channel(
        self, end: socket.SocketType, far: Handle | None, *, hung_up: bool = False
    ) -> None:
        """Close one end of a channel, and what waits in it; the other end too if that is given.

        `hung_up` tells that the kernel has reported the other end closed, so that this one is as good as shut down.
        """

    def stop_receiving(self, fd: int) -> None:
        """Let nothing more come to one end of a socket pair, and drop what waits there. May raise `OSError`."""


class AtOnce:
    """Closes everything on the spot."""

    def close(self, fd: int) -> None:
        """See :class:`Closing`."""
        os.close(fd)

    close_end = close

    def close_channel(
        self, end: socket.SocketType, far: Handle | None, *, hung_up: bool = False
    ) -> None:
        """See :class:`Closing`."""
        end.close()
        if far is not None:
            far.close()

    def stop_receiving(self, fd: int) -> None:
        """See :class:`Closing`."""
        stop_receiving(fd)
        drop_unread(fd)


AT_ONCE = AtOnce()


_NO_SOCKET = socket.SocketType(socket.AF_UNIX, socket.SOCK_SEQPACKET)
_NO_SOCKET.close()


class Channel:
    """The owner of one channel end."""

    __slots__ = ("_arrived", "_closing", "_handle", "_own", "_socket", "has_hung_up")

    def __init__(
        self,
        owned: int | socket.SocketType,
        closing: Closing = AT_ONCE,
        handle: type[Handle] = Handle,
    ) -> None:
        """Become the owner of one end of a SEQPACKET pair, a descriptor or a socket.

        `closing` closes it, and what is received, which is put into objects of the class `handle`.

        Raises `OSError` for a descriptor that is no socket, and then owns nothing.
        """
        self._closing = closing
        self._own = own if closing is AT_ONCE else partial(Number, close=closing.close)
        self._handle = handle
        #: What the kernel gave and wasn't returned yet: the result of a `recvmsg`, and the cells of its descriptors
        #: so far. An exception may interrupt receiving anywhere; the next receive, or close, goes on from here.
        self._arrived: list[Any] = []
        #: Whether the kernel has reported that the other end hung up (POLLHUP). It needn't be asked then, nor be told
        #: of a shutdown: it has shut down both directions, and that is never undone.
        self.has_hung_up = False
        self._socket = socket_over(owned) if isinstance(owned, int) else owned

    @property
    def kept(self) -> bool:
        """Whether something has come that an exception kept from being returned; :meth:`receive` returns it then."""
        return bool(self._arrived)

    def fileno(self) -> int:
        """Return the descriptor, still owned by this channel; -1 once closed."""
        return self._socket.fileno()

    def take(self) -> int:
        """Give the descriptor away: the caller owns it afterwards."""
        return self.take_socket().detach()

    def take_socket(self) -> socket.SocketType:
        """Give the socket away that owns the descriptor."""
        self._drop_arrived()
        taken, self._socket = self._socket, _NO_SOCKET
        return taken

    def close(self, far: Handle | None = None) -> None:
        """Close this end; the other one sees peer-closed. Idempotent.

        `far` is the other end, where that is at hand and to be closed too.
        """
        self._drop_arrived()
        if self._closing is AT_ONCE:
            close_cell(self._socket)
            if far is not None:
                far.close()
        elif self._socket.fileno() >= 0:
            taken, self._socket = self._socket, _NO_SOCKET
            self._closing.close_channel(taken, far, hung_up=self.has_hung_up)

    def stop_receiving(self) -> None:
        """Let nothing more come, and drop what waits. May raise `OSError`."""
        self._closing.stop_receiving(self.fileno())

    def shutdown_sending(self) -> None:
        """Let the other end see this one closed, while what it sends can still be received."""
        if self.has_hung_up:
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the other end is gone already

    def shut_down(self) -> None:
        """Let the other end see this one closed, and whoever waits for a message here, or polls, see the end."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # as above, and then nobody waits

    def peer_name(self) -> bytes:
        """Return the name of the other end: empty as long as nobody gave it one, or when there is no other end."""
        try:
            name = self._socket.getpeername()
        except OSError:
            return b""
        return name if isinstance(name, bytes) else name.encode(errors="surrogateescape")

    def peer_credentials(self) -> tuple[int, int, int]:
        """Return process, user and group of whoever connected, or made the pair. Raises `OSError`."""
        made = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, gid = _UCRED.unpack(made)
        return pid, uid, gid

    def bind(self, name: bytes) -> None:
        """Give this end a name, which the other end can then see. Raises `OSError` when it has one."""
        self._socket.bind(name)

    def receive(self, *, wait: bool = False) -> tuple[bytes, list[Handle]] | None:
        """Receive one datagram with its descriptors, which the caller then owns; None when there is none yet.

        With `wait` the kernel waits for one, unless somebody has made the end one that doesn't block.

        Raises :class:`PeerClosedError` once everything that the other end sent has been received and it is closed, and
        :class:`MalformedMessage` for a datagram that is empty, larger than a message or lost descriptors
        (:class:`DescriptorsLost`); the others are closed.
        """
        while not self._arrived:
            # `extend` calls `recvmsg` and keeps its result in one call of C.
            flags = _WAIT_FLAGS if wait else _RECEIVE_FLAGS
            receive = map(self._socket.recvmsg, (MAX_MESSAGE_BYTES,), (_CONTROL_BYTES,), (flags,))
            try:
                with no_fork:
                    self._arrived.extend(receive)
            except BlockingIOError:
                return None
            except (ConnectionResetError, InterruptedError):
                # Said once when the peer closed with data of ours unread; what it had sent is still queued behind.
                continue
            except OSError as error:
                self._check_own(error)
                raise
        data, ancillary, flags, _ = self._arrived[0]
        handles = self._handles() if ancillary else []
        self._arrived = []
        if not data and not self._at_end(handles):
            flags |= socket.MSG_TRUNC
        if flags & _TRUNCATED:
            for handle in handles:
                handle.close()
            if flags & socket.MSG_CTRUNC:
                raise DescriptorsLost(data)
            raise MalformedMessage(f"a datagram is empty or larger than {MAX_MESSAGE_BYTES} bytes")
        if not data:
            raise PeerClosedError("the peer closed the channel")
        return data, handles

    def _check_own(self, error: OSError) -> None:
        """Raise `HandleClosedError` when this end was closed, which may be why the kernel refuses something."""
        if self.fileno() < 0:  # in a signal's handler or another thread
            raise HandleClosedError("this channel was closed meanwhile")
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            raise HandleClosedError(
                f"descriptor {self.fileno()} was closed, but not by this channel, which owns it: a program that "
                "closes all descriptors, to become a daemon for example, must do so before it connects"
            ) from error

    def _handles(self) -> list[Handle]:
        """Return every descriptor that arrived, each with an owner; one that wasn't sent is closed."""
        arrived = self._arrived
        sent: list[int] = []
        others: list[int] = []
        for level, kind, data in arrived[0][1]:
            if level == socket.SOL_SOCKET and kind in (socket.SCM_RIGHTS, _SCM_PIDFD):
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % _INT_BYTES])
                # A descriptor of a process may be a negative error number.
                (sent if kind == socket.SCM_RIGHTS else others).extend(fd for fd in fds if fd >= 0)
        arrived.extend(map(self._own, (sent + others)[len(arrived) - 1 :]))
        handles = [self._handle(cell) for cell in arrived[1 : 1 + len(sent)]]
        for cell in arrived[1 + len(sent) :]:
            cell.close()
        return handles

    def _drop_arrived(self) -> None:
        """Close what came and was never returned, because an exception interrupted that."""
        while self._arrived:
            for handle in self._handles():
                handle.close()
            self._arrived = []

    def _at_end(self, handles: list[Handle]) -> bool:
        """Tell the end of what the peer sends from an empty datagram, which reads the same."""
        return not handles and (self.has_hung_up or self.hung_up())

    def hung_up(self) -> bool:
        """Whether the other end is closed or sends nothing more, also while there is something left to receive."""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def send(self, data: ReadableBuffer, handles: Sequence[Handle] = ()) -> int:
        """Send one datagram and return its size; 0 if the queue is full. The handles stay the caller's.

        Raises :class:`PeerClosedError` when the other end is closed, and `OSError` for what the kernel refuses
        otherwise (a datagram over the send buffer, too many descriptors in flight).
        """
        control = []
        if handles:
            fds = array.array("i", [handle.fileno() for handle in handles])
            control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        while True:
            try:
                return self._sendmsg(data, control)
            except BlockingIOError:
                return 0
            except InterruptedError:
                continue
            except ConnectionError as error:
                raise PeerClosedError("the peer closed the channel") from error
            except OSError as error:
                self._check_own(error)
                raise

    def _sendmsg(self, data: ReadableBuffer, control: Sequence[Any] = ()) -> int:
        if not control:
            return self._socket.send(data, _SEND_FLAGS)
        return self._socket.sendmsg([data], control, _SEND_FLAGS)

    def __repr__(self) -> str:
        return f"<Channel fd {self.fileno()}>"


class ServedChannel(Channel):
    """A channel end of a daemon, which isn't forked while it serves, and whose signals interrupt nothing.

    What it asks the kernel it asks through methods of its own, in whose place a test can put some that fail.
    """

    __slots__ = ()

    def receive(self, *, wait: bool = False) -> tuple[bytes, list[Handle]] | None:
        """See :meth:`Channel.receive`. This one never waits."""
        while True:
            try:
                received = self._recvmsg()
            except BlockingIOError:
                return None
            except (ConnectionResetError, InterruptedError):
                continue  # as in any channel
            data, ancillary, flags, _ = received
            if data and not ancillary and not flags & _TRUNCATED:
                return data, []
            self._arrived.append(received)
            return super().receive()

    def send(self, data: ReadableBuffer, handles: Sequence[Handle] = ()) -> int:
        """See :meth:`Channel.send`."""
        if handles:
            return super().send(data, handles)
        try:
            return self._sendmsg(data)
        except BlockingIOError:
            return 0
        except (ConnectionError, InterruptedError):
            return super().send(data)  # which says what that means

    def _recvmsg(self) -> tuple[bytes, list[Any], int, Any]:
        return self._socket.recvmsg(MAX_MESSAGE_BYTES, _CONTROL_BYTES, _RECEIVE_FLAGS)

    def _sendmsg(self, data: ReadableBuffer, control: Sequence[Any] = ()) -> int:
        if not control:
            return self._socket.send(data, _SEND_FLAGS)
        return self._socket.sendmsg([data], control, _SEND_FLAGS)
