"""Reaching the daemon."""

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
from sysmem_protocol.sysmem2 import MAX_DEBUG_NAME_BYTES, Allocator, SetDebugClientInfoRequest

from ._calls import datagram, encode_request
from ._errors import DaemonUnavailableError
from ._process import process_name, reserve_standard_descriptors
from ._timeouts import deadline, remaining, seconds
from ._trace import traced

#: Errors that are no word about the place that is looked at.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
#: What errors mean here, where the kernel's own words don't say it.
_REASONS = {
    errno.EPROTOTYPE: "a socket of another type is there; sysmemd's are SOCK_SEQPACKET",
    errno.EACCES: "Permission denied; a service is open to the users in its group",
}
_FIRST_PAUSE_SECONDS = 0.002
_LONGEST_PAUSE_SECONDS = 0.1


def cut(name: str) -> str:
    """As much of a name as the protocol lets a client say, whole characters only."""
    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {type(name).__name__}")
    written = name.encode()
    if len(written) <= MAX_DEBUG_NAME_BYTES:
        return name
    return written[:MAX_DEBUG_NAME_BYTES].decode(errors="ignore")


def hello(name: str | None, id: int | None) -> tuple[bytes, bytes]:
    """Return the first messages: who we are (this process, unless given), and that we want to be told reasons."""
    info = SetDebugClientInfoRequest(
        name=cut(process_name() if name is None else name), id=os.getpid() if id is None else id
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
    """Connect to a service of the first daemon that is found; return the channel and the daemon's directory.

    A directory without a socket that accepts connections is passed over. With `may_wait` this waits up to `timeout`
    seconds for a daemon that many connect to at once; otherwise such a daemon counts as one that refuses.

    Raises:
        DaemonUnavailableError: No daemon accepts connections; the message lists the places and says what to do.
        TimeoutError: A daemon is there and did not accept in time.
        OSError: This process or the machine has run out of something.
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
                raise TimeoutError(f"the sysmem daemon at {path} didn't accept in time") from error
            failures[path] = error
            if isinstance(error, BlockingIOError):
                break  # this is the daemon to use, and it is busy
    raise DaemonUnavailableError(_unavailable(failures)) from None  # the reasons are in it


#: Connects to a service of a daemon, within a time; returns the socket or descriptor, which the caller owns.
Opener: TypeAlias = Callable[[type[Interface], float | None], int | socket.SocketType]


def opener(directories: Sequence[Path], *, may_wait: bool) -> Opener:
    """Return what connects to the services of a daemon; see :func:`open_service`."""

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
    """Say where no daemon is, and what would help."""
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
    """Return the socket of a new Allocator channel on which was said who we are, and the daemon's directory.

    The caller owns the socket. Arguments and errors are those of :func:`open_service`, but that `runtime_dir` is
    the only directory if it is given.
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
    """When to connect again to a daemon that isn't there yet: after pauses that grow, for a time.

    A watch of the file system would not do: the directory may not be there yet either, a service manager's socket is
    there before its daemon, and there can be three places. The pauses cost little, about ten attempts a second at most,
    and they are drawn at random, so that many clients of a daemon that was restarted don't all come at once.
    """

    def __init__(self, wait: float) -> None:
        """Go on for `wait` seconds from now."""
        self._end = deadline(wait)
        self._pause = _FIRST_PAUSE_SECONDS

    def left(self) -> float | None:
        """Return how many seconds are left; None for any number."""
        return remaining(self._end)

    def pause(self) -> float | None:
        """Return for how many seconds to wait before the next attempt; None if the time is over."""
        left = self.left()
        if left is not None and left <= 0:
            return None
        from random import uniform  # which takes milliseconds to import, for those who wait only

        pause = self._pause * uniform(0.5, 1)
        self._pause = min(2 * self._pause, _LONGEST_PAUSE_SECONDS)
        return pause if left is None else min(pause, left)


def _set_send_timeout(sock: socket.SocketType, seconds: float) -> None:
    """Bound how long this socket connects; 0 for ever.

    `socket.settimeout` won't do: it polls a non-blocking socket, and one of AF_UNIX refuses at once instead.
    """
    microseconds = max(0, math.ceil(min(seconds, 1e9) * 1_000_000))
    whole, rest = divmod(microseconds, 1_000_000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", whole, rest))
