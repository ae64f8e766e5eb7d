"""Reaching the daemon."""

from __future__ import annotations

import math
import os
import socket
import struct
from pathlib import Path

from sysmem_protocol.channel import Channel, PeerClosedError
from sysmem_protocol.runtime import runtime_dir as find_runtime_dir
from sysmem_protocol.runtime import service_path, socket_address
from sysmem_protocol.sysmem2 import MAX_DEBUG_NAME_BYTES, Allocator, SetDebugClientInfoRequest

from ._calls import datagram, encode_request
from ._errors import DaemonUnavailableError
from ._timeouts import seconds


def process_name() -> str:
    """The name of this process, as `ps` shows it."""
    try:
        name = Path("/proc/self/comm").read_bytes()
    except OSError:
        return ""
    return name.decode(errors="replace").strip()


def cut(name: str) -> str:
    """As much of a name as the protocol lets a client say, whole characters only."""
    if not isinstance(name, str):
        raise TypeError(f"a name is a str, not {type(name).__name__}")
    written = name.encode()
    if len(written) <= MAX_DEBUG_NAME_BYTES:
        return name
    return written[:MAX_DEBUG_NAME_BYTES].decode(errors="ignore")


def hello(name: str | None, id: int | None) -> bytes:
    """The message that says who we are: this process, unless given."""
    method = Allocator.set_debug_client_info
    info = SetDebugClientInfoRequest(
        name=cut(process_name() if name is None else name), id=os.getpid() if id is None else id
    )
    return datagram(method, encode_request(method, info)[0])


def connected(
    runtime_dir: str | os.PathLike[str] | None,
    name: str | None,
    id: int | None,
    *,
    may_wait: bool,
    timeout: float | None = None,
) -> int:
    """A new Allocator channel on which was said who we are; the caller owns the descriptor.

    With `may_wait` it waits for a daemon that many connect to at once, for `timeout` seconds at most; otherwise it
    refuses then.

    Raises :class:`DaemonUnavailableError` when no daemon accepts connections, `TimeoutError` when one doesn't in time,
    and `OSError` for what isn't its fault.
    """
    timeout = seconds(timeout)
    first = hello(name, id)
    path = service_path(find_runtime_dir(runtime_dir), Allocator)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        sock.setblocking(may_wait and (timeout is None or timeout > 0))
        if timeout is not None:
            _set_send_timeout(sock, timeout)
        try:
            with socket_address(path) as address:
                sock.connect(address)
        except (
            FileNotFoundError,
            NotADirectoryError,
            PermissionError,
            ConnectionError,
            BlockingIOError,
        ) as error:
            if may_wait and isinstance(error, BlockingIOError):
                raise TimeoutError(f"the sysmem daemon at {path} didn't accept in time") from error
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise DaemonUnavailableError(
                f"no sysmem daemon accepts connections at {path}: {reason}"
            ) from error
        if timeout is not None:
            _set_send_timeout(sock, 0)
        channel = Channel(sock.detach())
    except BaseException:
        sock.close()
        raise
    try:
        channel.send(first)
        return channel.take()
    except PeerClosedError as error:
        raise DaemonUnavailableError(
            f"the sysmem daemon at {path} closed the connection at once"
        ) from error
    finally:
        channel.close()


def _set_send_timeout(sock: socket.socket, seconds: float) -> None:
    """Bound how long this socket connects; 0 for ever.

    `socket.settimeout` won't do: it polls a non-blocking socket, and one of AF_UNIX refuses at once instead.
    """
    microseconds = max(0, math.ceil(min(seconds, 1e9) * 1_000_000))
    whole, rest = divmod(microseconds, 1_000_000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("@ll", whole, rest))
