"""Sending and receiving a token over a socket of the program, without waiting."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from sysmem_protocol.channel import Channel, DescriptorsLost, PeerClosedError
from sysmem_protocol.handles import Handle
from sysmem_protocol.kinds import describe, is_unix_socket
from sysmem_protocol.owner import channel_of

from ._arguments import descriptor
from ._handles import Arrived

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike, ReadableBuffer

#: The maximum number of bytes that accompany a token. Linux keeps so many together also on a stream socket: the first
#: piece of 36 KiB carries the descriptor, and a receive call ends after it.
MAX_DATA_BYTES = 32 * 1024


def channel_over(sock: FileDescriptorLike) -> Channel:
    """Return a channel over a duplicate of a socket's descriptor. The caller keeps ownership of the socket.

    The duplicate stays open during a waiting call, whatever other threads do with the socket. Raises `TypeError` if the
    value is not a descriptor and has no `fileno()`, and `ValueError` if it is not a Unix socket.
    """
    number = descriptor(sock.fileno() if hasattr(sock, "fileno") else sock)
    if not is_unix_socket(number):
        raise ValueError(
            f"a token can only be sent over a Unix socket; descriptor {number} is {describe(number)}"
        )
    return Channel(channel_of(number).made[0], handle=Arrived)


def checked(data: ReadableBuffer) -> memoryview:
    """Return the data for a token as bytes. Raises `TypeError` or `ValueError` if it can't be sent."""
    view = memoryview(data).cast("B")
    if not 0 < len(view) <= MAX_DATA_BYTES:
        raise ValueError(
            f"the data with a token must have 1 to {MAX_DATA_BYTES} bytes, not {len(view)}"
        )
    return view


def send(channel: Channel, data: memoryview, handles: list[Handle]) -> int:
    """Send as much as possible without waiting, and return the number of bytes. The caller keeps the handles.

    Raises `BrokenPipeError` if the other end is closed, and `OSError` if the kernel refuses for another reason.
    """
    try:
        return channel.send(data, handles)
    except PeerClosedError as error:
        raise BrokenPipeError(errno.EPIPE, "the other end of the socket is closed") from error


def receive(channel: Channel) -> tuple[Handle, bytes] | None:
    """Receive without waiting: one descriptor, which the caller owns, and its data. Return None if there is nothing.

    Raises `EOFError`, `ValueError` or `OSError` as :meth:`sysmem.BufferCollectionToken.receive` does. In that case all
    received descriptors are closed.
    """
    try:
        arrived = channel.receive()
    except PeerClosedError:
        raise EOFError("the other end of the socket is closed, and no token arrived") from None
    except DescriptorsLost:
        raise OSError(errno.EMFILE, "no descriptor is left for the token that arrived") from None
    if arrived is None:
        return None
    data, handles = arrived
    if len(handles) == 1:
        return handles[0], data
    for handle in handles:
        handle.close()
    raise ValueError(
        f"{len(handles) or 'no'} descriptors arrived with {data!r:.60}; a token is one descriptor"
    )
