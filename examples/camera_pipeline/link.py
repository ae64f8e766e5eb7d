"""How the initiator and its participants talk: a tiny protocol of this example's own.

sysmem negotiates memory and nothing else. How tokens reach participants, and how these tell each other which buffer
holds a new frame, is up to the application: here, one JSON object a datagram over a socketpair per participant.
"""

from __future__ import annotations

import json
import select
import socket
from typing import Any

from sysmem import blocking

Message = dict[str, Any]


class Link:
    """One end of the socketpair between the initiator and one participant."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end

    def fileno(self) -> int:
        """The descriptor, so that `select` takes a Link as it is."""
        return self._socket.fileno()

    def send(self, kind: str, fd: int | None = None, **values: Any) -> None:
        """Send a message, with a descriptor if need be; the caller still owns (and closes) that."""
        data = json.dumps({"kind": kind, **values}).encode()
        socket.send_fds(self._socket, [data], [] if fd is None else [fd])

    def receive(self) -> Message:
        """Wait for a message. A descriptor that came along is its "fd", and the receiver's to close."""
        try:
            data, fds, _, _ = socket.recv_fds(self._socket, 65536, 1, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            # Said once when the other end closed before it read all; what it sent before comes after it.
            return self.receive()
        if not data:
            raise EOFError("the other end is gone")
        message: Message = json.loads(data)
        return {**message, "fd": fds[0]} if fds else message

    def receive_unless_closed(
        self, collection: blocking.BufferCollection, timeout: float | None = None
    ) -> Message | None:
        """Wait for a message; None when `timeout` seconds are over or the collection's channel is closed.

        A collection can be waited for like any socket: without calls under way, readable means that the daemon closed
        its end, so somebody whom this participant depends on has failed.
        """
        poll = select.poll()
        poll.register(self, select.POLLIN)
        poll.register(collection, select.POLLIN)
        ready = [fd for fd, _ in poll.poll(timeout and timeout * 1000)]
        return self.receive() if ready == [self.fileno()] else None

    def close(self) -> None:
        """Close this end; the other one receives EOFError."""
        self._socket.close()
