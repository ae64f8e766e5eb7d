"""Eventpairs that tasks wait for."""

from __future__ import annotations

import os
import socket

import anyio
import anyio.lowlevel

from sysmem_protocol.handles import HandleClosedError

from .._timeouts import seconds
from .._vmo import EventPair, hung_up
from .sleepers import Sleepers


class AsyncEventPair(EventPair):
    """One end of an eventpair, which the daemon closes its end of when something has happened.

    For any number of tasks of one event loop.
    """

    __slots__ = ("_sleepers",)

    def __init__(self, fd: int) -> None:
        """Become the owner of `fd`."""
        super().__init__(fd)
        self._sleepers = Sleepers()

    def is_closed(self) -> bool:
        """Whether the other end is closed, without waiting."""
        return hung_up(self.fileno())

    async def wait_closed(self, timeout: float | None = None) -> bool:
        """Wait until the other end is closed, `timeout` seconds at most: True, or False when the time is over.

        Raises `HandleClosedError` when this end is closed, also when another task does that meanwhile. Cancellation
        changes nothing.
        """
        allowed = seconds(timeout)
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(allowed):
            while not self.is_closed():
                if await self._sleepers.sleep(self.fileno(), anyio.wait_readable):
                    self._discard()
                if self.closed:
                    raise HandleClosedError("this eventpair was closed by another task")
        return self.is_closed()

    def _discard(self) -> None:
        """Drop what was written into the eventpair, which means nothing, so that only its end is news."""
        if self.closed:
            return
        with socket.socket(fileno=os.dup(self.fileno())) as sock:
            try:
                sock.recv(4096, socket.MSG_DONTWAIT)
            except OSError:
                return  # nothing there

    def take(self) -> int:
        """Give the descriptor away. Raises `RuntimeError` while a task waits on it."""
        if self._sleepers.any:
            raise RuntimeError("a task waits on this eventpair; it can't be given away")
        return super().take()

    def close(self) -> None:
        """Close this end; tasks that wait on it get a HandleClosedError. Idempotent."""
        if not self.closed:
            fd = super().take()
            self._sleepers.close(fd, lambda: os.close(fd))
