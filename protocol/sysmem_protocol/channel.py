"""One end of a channel: datagrams with their descriptors, sent and received without blocking.

A channel is an AF_UNIX SOCK_SEQPACKET pair (`docs/spec/linux.md`, "Channels"). The caller waits with trio, asyncio or
`poll`. Nothing relies on O_NONBLOCK, because another owner of the open file description may set or clear it.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import select
import socket
import struct
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from .handles import Handle, drop_unread, stop_receiving
from .message import MAX_HANDLES, MAX_MESSAGE_BYTES, MalformedMessage
from .owner import (
    HandleClosedError,
    Number,
    close_cell,
    closed_by_program,
    no_fork,
    own,
    socket_over,
)

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

#: `struct ucred`: process, user and group of a peer.
_UCRED = struct.Struct("iII")
_INT_BYTES = array.array("i").itemsize
#: Room for control data that another owner of the end may have enabled: credentials, a security label. If these filled
#: the buffer, the kernel would have no room for the last descriptors and would close them, which may take arbitrarily
#: long.
_OTHER_CONTROL_BYTES = 4096
_CONTROL_BYTES = socket.CMSG_SPACE(MAX_HANDLES * _INT_BYTES) + _OTHER_CONTROL_BYTES
_RECEIVE_FLAGS = int(socket.MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)
_WAIT_FLAGS = int(socket.MSG_CMSG_CLOEXEC)
_SEND_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
#: Control data that Python has no name for: a descriptor of the sending process, which the kernel adds if the socket
#: has SO_PASSPIDFD. A previous owner of the socket may have set that.
_SCM_PIDFD = 4
_TRUNCATED = int(socket.MSG_TRUNC | socket.MSG_CTRUNC)


class PeerClosedError(ConnectionError):
    """The other end of the channel is closed.

    Attributes:
        reason: The reason in one line, as in the daemon's log; None if it is not known.
        report: The full report of a refused negotiation, with all constraints and the conflict marked; None if there
            is none, or it is not known.
    """

    def __init__(
        self,
        message: str = "the peer closed the channel",
        reason: str | None = None,
        report: str | None = None,
    ) -> None:
        super().__init__(message)  # further arguments would be an error number and a file name
        self.reason = reason
        self.report = report

    def __str__(self) -> str:
        [message] = self.args
        return f"{message}: {self.reason}" if self.reason else str(message)

    def again(self, reason: str | None = None, report: str | None = None) -> PeerClosedError:
        """Return an equal error to raise once more, with the reason that is known by now."""
        error = PeerClosedError(self.args[0], self.reason or reason, self.report or report)
        error.__cause__ = self.__cause__
        return error


class DescriptorsLost(MalformedMessage):
    """The kernel dropped descriptors of a datagram: there were too many for a message, or for this process's limit."""

    def __init__(self, data: bytes) -> None:
        super().__init__(
            "control data was truncated: there were more descriptors than a message or this process can have"
        )
        self.data = data


class Closing(Protocol):
    """How to close descriptors that came from another process, because closing these may take arbitrarily long."""

    def close(self, fd: int) -> None:
        """Close a descriptor that was received."""

    def close_end(self, fd: int) -> None:
        """Close one end of a socket pair and the messages queued in it. The other end sees this immediately."""

    def close_channel(
        self, end: socket.SocketType, far: Handle | None, *, hung_up: bool = False
    ) -> None:
        """Close one end of a channel, and what waits in it; the other end too if that is given.

        If `hung_up` is true, the kernel has reported that the other end is closed, so no shutdown is needed.
        """

    def stop_receiving(self, fd: int) -> None:
        """Shut down receiving at one end of a socket pair, and drop the messages queued there. May raise `OSError`."""


class AtOnce:
    """Closes everything immediately."""

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


def _is_open(fd: int) -> bool:
    try:
        fcntl.fcntl(fd, fcntl.F_GETFD)
    except OSError:
        return False
    return True


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
        """Take ownership of one end of a SEQPACKET pair, given as a descriptor or a socket.

        `closing` closes the end and received descriptors. Received descriptors are put into objects of the class
        `handle`.

        Raises `OSError` if the descriptor is not a socket, and then does not take ownership.
        """
        self._closing = closing
        self._own = own if closing is AT_ONCE else partial(Number, close=closing.close)
        self._handle = handle
        #: Received data that was not returned yet: the result of a `recvmsg`, and the cells of its descriptors so far.
        #: An exception may interrupt receiving at any point. The next receive, or close, continues from here.
        self._arrived: list[Any] = []
        #: Whether the kernel has reported that the other end hung up (POLLHUP). This state is final, so later queries
        #: and shutdowns are unnecessary.
        self.has_hung_up = False
        self._socket = socket_over(owned) if isinstance(owned, int) else owned

    @property
    def kept(self) -> bool:
        """Whether something has come that an exception kept from being returned; :meth:`receive` returns it then."""
        return bool(self._arrived)

    def fileno(self) -> int:
        """Return the descriptor, or -1 after close. This channel keeps ownership."""
        return self._socket.fileno()

    def take(self) -> int:
        """Give up ownership of the descriptor and return it."""
        return self.take_socket().detach()

    def take_socket(self) -> socket.SocketType:
        """Give up ownership of the socket and return it."""
        self._drop_arrived()
        taken, self._socket = self._socket, _NO_SOCKET
        return taken

    def close(self, far: Handle | None = None) -> None:
        """Close this end. The other end sees peer-closed. Idempotent.

        `far` is the other end, if this process has it and it must be closed too.
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
        """Shut down receiving, and drop queued messages. May raise `OSError`."""
        self._closing.stop_receiving(self.fileno())

    def shutdown_sending(self) -> None:
        """Shut down sending, so that the other end sees peer-closed. Its messages can still be received."""
        if self.has_hung_up:
            return
        try:
            self._socket.shutdown(socket.SHUT_WR)
        except OSError:
            return  # the other end is already gone

    def shut_down(self) -> None:
        """Shut down both directions. The other end sees peer-closed, and any call that waits on this end wakes up."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the other end is already gone, so no call waits

    def peer_name(self) -> bytes:
        """Return the name of the other end. It is empty if the other end has no name or does not exist."""
        try:
            name = self._socket.getpeername()
        except OSError:
            return b""
        return name if isinstance(name, bytes) else name.encode(errors="surrogateescape")

    def peer_credentials(self) -> tuple[int, int, int]:
        """Return pid, uid and gid of the process that connected or created the pair. Raises `OSError`."""
        made = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, gid = _UCRED.unpack(made)
        return pid, uid, gid

    def bind(self, name: bytes) -> None:
        """Bind this end to a name, which the other end can then see. Raises `OSError` if it already has one."""
        self._socket.bind(name)

    def receive(self, *, wait: bool = False) -> tuple[bytes, list[Handle]] | None:
        """Receive one datagram with its descriptors, which the caller owns. Return None if none has arrived.

        With `wait`, block until one arrives, unless another owner has made the socket non-blocking.

        Raises :class:`PeerClosedError` if the other end is closed and everything that it sent has been received, and
        :class:`MalformedMessage` for a datagram that is empty, larger than a message or lost descriptors
        (:class:`DescriptorsLost`). Remaining descriptors of such a datagram are closed.
        """
        while not self._arrived:
            # `extend` calls `recvmsg` and stores its result in one C call, which no signal handler can interrupt.
            flags = _WAIT_FLAGS if wait else _RECEIVE_FLAGS
            receive = map(self._socket.recvmsg, (MAX_MESSAGE_BYTES,), (_CONTROL_BYTES,), (flags,))
            try:
                with no_fork:
                    self._arrived.extend(receive)
            except BlockingIOError:
                return None
            except (ConnectionResetError, InterruptedError):
                # Reported once if the peer closed with unread data. Its own messages are still queued behind this
                # error.
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

    def _check_own(self, error: OSError, sent: Sequence[Handle] = ()) -> None:
        """Raise `HandleClosedError` if the kernel refuses something because this end, or a sent handle, was closed."""
        if self.fileno() < 0:  # in a signal's handler or another thread
            raise HandleClosedError("this channel was closed meanwhile")
        if error.errno in (errno.EBADF, errno.ENOTSOCK):
            closed = next((handle for handle in sent if not _is_open(handle.fileno())), self)
            owner = "this channel" if closed is self else f"the {type(closed).__name__}"
            raise closed_by_program(closed.fileno(), owner) from error

    def _handles(self) -> list[Handle]:
        """Return every received descriptor with an owner. Close those that were not sent by SCM_RIGHTS."""
        arrived = self._arrived
        sent: list[int] = []
        others: list[int] = []
        for level, kind, data in arrived[0][1]:
            if level == socket.SOL_SOCKET and kind in (socket.SCM_RIGHTS, _SCM_PIDFD):
                fds = array.array("i")
                fds.frombytes(data[: len(data) - len(data) % _INT_BYTES])
                # A process's descriptor may be a negative error number instead.
                (sent if kind == socket.SCM_RIGHTS else others).extend(fd for fd in fds if fd >= 0)
        arrived.extend(map(self._own, (sent + others)[len(arrived) - 1 :]))
        handles = [self._handle(cell) for cell in arrived[1 : 1 + len(sent)]]
        for cell in arrived[1 + len(sent) :]:
            cell.close()
        return handles

    def _drop_arrived(self) -> None:
        """Close received descriptors that were not returned because of an exception."""
        while self._arrived:
            for handle in self._handles():
                handle.close()
            self._arrived = []

    def _at_end(self, handles: list[Handle]) -> bool:
        """Return whether an empty read is the end of the stream, not an empty datagram."""
        return not handles and (self.has_hung_up or self.hung_up())

    def hung_up(self) -> bool:
        """Return whether the other end is closed or has stopped sending, even if messages are still queued."""
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return bool(poll.poll(0))

    def send(self, data: ReadableBuffer, handles: Sequence[Handle] = ()) -> int:
        """Send one datagram and return its size, or 0 if the queue is full. The caller keeps the handles.

        Raises :class:`PeerClosedError` if the other end is closed, and `OSError` if the kernel refuses for another
        reason (a datagram larger than the send buffer, too many descriptors in flight).
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
                self._check_own(error, handles)
                raise

    def _sendmsg(self, data: ReadableBuffer, control: Sequence[Any] = ()) -> int:
        if not control:
            return self._socket.send(data, _SEND_FLAGS)
        return self._socket.sendmsg([data], control, _SEND_FLAGS)

    def __repr__(self) -> str:
        return f"<Channel fd {self.fileno()}>"


class ServedChannel(Channel):
    """A channel end of a daemon, which is not forked while it serves, and is not interrupted by signals.

    It makes system calls through methods of its own, which a test can replace by failing ones.
    """

    __slots__ = ()

    def receive(self, *, wait: bool = False) -> tuple[bytes, list[Handle]] | None:
        """Receive as :meth:`Channel.receive` does, but never wait."""
        while True:
            try:
                received = self._recvmsg()
            except BlockingIOError:
                return None
            except (ConnectionResetError, InterruptedError):
                continue  # as in Channel.receive
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
            return super().send(data)  # it raises the right error

    def _recvmsg(self) -> tuple[bytes, list[Any], int, Any]:
        return self._socket.recvmsg(MAX_MESSAGE_BYTES, _CONTROL_BYTES, _RECEIVE_FLAGS)
