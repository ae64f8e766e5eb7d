"""A token on its way over a socket of the program's own, without the waiting."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from sysmem_protocol.channel import Channel, DescriptorsLost, PeerClosedError
from sysmem_protocol.handles import Handle, describe, is_unix_socket
from sysmem_protocol.owner import channel_of

from ._arguments import descriptor
from ._handles import Arrived

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike, ReadableBuffer

#: Bytes that may go with a token. Linux keeps so many together also on a stream socket, in whose pieces of 36 KiB the
#: first one carries the descriptor and a receive call ends after it.
MAX_DATA_BYTES = 32 * 1024


def channel_over(sock: FileDescriptorLike) -> Channel:
    """Return a channel over a duplicate of the descriptor of a socket, which stays the caller's.

    The duplicate keeps the socket open under a call that waits, whatever other threads do. Raises `TypeError` for what
    is neither a descriptor nor has a `fileno()`, and `ValueError` for what is no Unix socket.
    """
    number = descriptor(sock.fileno() if hasattr(sock, "fileno") else sock)
    if not is_unix_socket(number):
        raise ValueError(
            f"a token goes over a Unix socket; descriptor {number} is {describe(number)}"
        )
    return Channel(channel_of(number).made[0], handle=Arrived)


def checked(data: ReadableBuffer) -> memoryview:
    """Return the bytes that go with a token. Raises `TypeError` or `ValueError` for what can't go."""
    view = memoryview(data).cast("B")
    if not 0 < len(view) <= MAX_DATA_BYTES:
        raise ValueError(f"1 to {MAX_DATA_BYTES} bytes go with a token, not {len(view)}")
    return view


def send(channel: Channel, data: memoryview, handles: list[Handle]) -> int:
    """Send what goes without waiting; return the number of bytes. The handles stay the caller's.

    Raises `BrokenPipeError` if the other end is closed, and `OSError` for what the kernel refuses otherwise.
    """
    try:
        return channel.send(data, handles)
    except PeerClosedError as error:
        raise BrokenPipeError(errno.EPIPE, "the other end of the socket is closed") from error


def receive(channel: Channel) -> tuple[Handle, bytes] | None:
    """Receive what has come without waiting: one descriptor, which the caller then owns, and the bytes with it.

    Raises `EOFError`, `ValueError` or `OSError` as :meth:`sysmem.BufferCollectionToken.receive` says. Nothing that
    came is left open then.
    """
    try:
        arrived = channel.receive()
    except PeerClosedError:
        raise EOFError("the other end of the socket is closed, and no token came") from None
    except DescriptorsLost:
        raise OSError(errno.EMFILE, "no descriptor is left for the token that came") from None
    if arrived is None:
        return None
    data, handles = arrived
    if len(handles) == 1:
        return handles[0], data
    for handle in handles:
        handle.close()
    raise ValueError(f"{len(handles) or 'no'} descriptors came with {data!r:.60}; a token is one")
