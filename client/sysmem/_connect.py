"""Connecting to the daemon's sockets."""

from __future__ import annotations

import errno
import math
import os
import shlex
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from sysmem_protocol.channel import Channel, PeerClosedError
from sysmem_protocol.explained import Explained, ExplainedSetExplainRequest
from sysmem_protocol.library import Interface, Method, Table
from sysmem_protocol.owner import new_channel
from sysmem_protocol.runtime import (
    RUNTIME_DIR_VARIABLE,
    runtime_dirs,
    service_path,
    socket_address,
)
from sysmem_protocol.sysmem2 import Allocator, SetDebugClientInfoRequest

from ._calls import datagram, encode_request
from ._errors import DaemonUnavailableError
from ._process import process_name, reserve_standard_descriptors
from ._timeouts import deadline, remaining, seconds
from ._trace import traced

#: Errors that say nothing about the place that is tried.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
#: Explanations of errors for which the kernel's text is not enough.
_REASONS = {
    errno.EPROTOTYPE: "a socket of another type is there; sysmemd's are SOCK_SEQPACKET",
    errno.EACCES: "Permission denied; a service is open to the users in its group",
}
_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.1


def hello(name: str | None, id: int | None) -> tuple[bytes, bytes]:
    """Return the first messages: the client's name and id (by default this process's), and a request for reasons."""
    info = SetDebugClientInfoRequest(
        name=process_name() if name is None else name, id=os.getpid() if id is None else id
    )
    return (
        _message(Allocator.set_debug_client_info, info),
        _message(Explained.set_explain, ExplainedSetExplainRequest(explain=True)),
    )


def _message(method: Method, request: Table) -> bytes:
    return datagram(method, encode_request(method, request)[0])


def open_service(
    directories: Sequence[Path],
    interface: type[Interface],
    *,
    may_wait: bool,
    timeout: float | None = None,
) -> tuple[Channel, Path]:
    """Connect to a service of the first daemon that is found. Return the channel and the daemon's directory.

    A directory without a socket that accepts connections is skipped. With `may_wait`, wait up to `timeout` seconds for
    a daemon whose queue of connections is full. Otherwise treat such a daemon as one that refuses.

    Raises:
        DaemonUnavailableError: No daemon accepts connections. The message lists the places and a remedy.
        TimeoutError: There is a daemon, but it did not accept in time.
        OSError: A resource of this process or the machine is exhausted.
    """
    timeout = seconds(timeout)
    reserve_standard_descriptors()
    failures: dict[Path, OSError] = {}
    for directory in directories:
        path = service_path(directory.absolute(), interface)
        try:
            return _connected(path, interface, may_wait, timeout), path.parent
        except OSError as error:
            if error.errno in _EXHAUSTED:
                raise
            if may_wait and isinstance(error, BlockingIOError):
                raise TimeoutError(f"the sysmem daemon at {path} did not accept in time") from error
            failures[path] = error
            if isinstance(error, BlockingIOError):
                break  # this is the right daemon, and it is busy
    raise DaemonUnavailableError(_unavailable(failures)) from None  # the text has the reasons


#: Connects to a service of a daemon, with a timeout. Returns the socket or descriptor, which the caller owns.
Opener: TypeAlias = Callable[[type[Interface], float | None], int | socket.SocketType]


def opener(directories: Sequence[Path], *, may_wait: bool) -> Opener:
    """Return a function that connects to the services of a daemon; see :func:`open_service`."""

    def open_within(interface: type[Interface], timeout: float | None) -> socket.SocketType:
        channel, _ = open_service(directories, interface, may_wait=may_wait, timeout=timeout)
        return channel.take_socket()

    return open_within


def _connected(
    path: Path, interface: type[Interface], may_wait: bool, timeout: float | None
) -> Channel:
    making = new_channel()
    [sock] = making.made
    try:
        sock.setblocking(may_wait and (timeout is None or timeout > 0))
        if timeout is not None:
            _set_send_timeout(sock, timeout)
        with socket_address(path) as address:
            sock.connect(address)
        if timeout is not None:
            _set_send_timeout(sock, 0)
        return Channel(sock) if traced is None else traced(sock, interface)
    except BaseException:
        sock.close()
        raise


def _unavailable(failures: Mapping[Path, OSError]) -> str:
    """Return a message that lists where no daemon is, with a remedy."""
    reasons = [
        f"{path}: {_REASONS.get(error.errno or 0) or error.strerror or error}"
        for path, error in failures.items()
    ]
    start = f"sysmemd --runtime-dir {shlex.quote(str(next(iter(failures)).parent))}"
    return (
        f"no sysmem daemon accepts connections at {'; nor at '.join(reasons)}. "
        f"`{start}` starts one; {RUNTIME_DIR_VARIABLE} names the directory of one that runs elsewhere"
    )


def connected(
    runtime_dir: str | os.PathLike[str] | None,
    name: str | None,
    id: int | None,
    *,
    may_wait: bool,
    timeout: float | None = None,
) -> tuple[socket.SocketType, Path]:
    """Connect to the Allocator and send the client's name. Return the channel's socket and the daemon's directory.

    The caller owns the socket. Arguments and errors are those of :func:`open_service`, except that `runtime_dir` is the
    only directory if it is given.
    """
    first = hello(name, id)
    channel, directory = open_service(
        runtime_dirs(runtime_dir), Allocator, may_wait=may_wait, timeout=timeout
    )
    try:
        for message in first:
            channel.send(message)
        return channel.take_socket(), directory
    except PeerClosedError as error:
        raise DaemonUnavailableError(
            f"the sysmem daemon in {directory} closed the connection at once"
        ) from error
    finally:
        channel.close()


class Retries:
    """The pauses between attempts to connect to a daemon that is not there yet. They grow, up to a total time.

    A watch of the file system would not do: the directory may not exist yet, the socket of a service manager exists
    before its daemon, and there can be three places. The pauses cost little, at most about ten attempts a second. They
    are random, so that many clients of a restarted daemon do not connect all at once.
    """

    def __init__(self, wait: float) -> None:
        """Allow attempts for `wait` seconds from now."""
        self._end = deadline(wait)
        self._pause = _FIRST_PAUSE_SECONDS

    def left(self) -> float | None:
        """Return the remaining seconds; None if there is no limit."""
        return remaining(self._end)

    def pause(self) -> float | None:
        """Return the seconds until the next attempt, or None if the time is over."""
        left = self.left()
        if left is not None and left <= 0:
            return None
        from random import uniform  # takes milliseconds to import, so only programs that wait do

        pause = self._pause * uniform(0.5, 1)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        return pause if left is None else min(pause, left)


def _set_send_timeout(sock: socket.SocketType, seconds: float) -> None:
    """Limit the time that this socket's connect may take; 0 means no limit.

    `socket.settimeout` would not work: it makes the socket non-blocking and polls, but a non-blocking AF_UNIX socket
    refuses immediately.
    """
    microseconds = max(0, math.ceil(min(seconds, 1e9) * 1_000_000))
    whole, rest = divmod(microseconds, 1_000_000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", whole, rest))
