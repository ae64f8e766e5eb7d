"""Tasks that wait for something that a descriptor tells."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.lowlevel

from .._timeouts import seconds
from .sleepers import Sleepers

T = TypeVar("T")


class Waiter:
    """Tasks that try something again each time a descriptor is readable."""

    __slots__ = ("_closed", "_scope", "_sleepers")

    def __init__(self, fd: int, close: Callable[[], None]) -> None:
        """Wait for `fd`, and call `close` after :meth:`close`, once or twice, when nobody waits any more."""
        self._closed = False
        self._sleepers = Sleepers(lambda: fd, lambda: anyio.notify_closing(fd), close)
        self._scope: anyio.CancelScope | None = None

    async def until(
        self, attempt: Callable[[], T | None], timeout: float | None, late: Callable[[], str]
    ) -> T:
        """Return what `attempt()` does as soon as that isn't None; it is called each time the descriptor is readable.

        What it raises ends the waiting.

        Raises:
            TimeoutError: `timeout` seconds are over; `late()` is the text.
        """
        allowed = seconds(timeout)
        await anyio.lowlevel.checkpoint()
        with anyio.move_on_after(allowed):
            while True:
                found = attempt()
                if found is not None:
                    return found
                await self._sleepers.sleep(self._readable)
        raise TimeoutError(late())

    def wake(self) -> None:
        """Let those who wait try again though the descriptor tells nothing."""
        if self._scope is not None:
            self._scope.cancel()

    def close(self) -> None:
        """Wake everybody, and close the descriptor once they are awake. Idempotent."""
        if not self._closed:
            self._closed = True
            self._sleepers.close()

    async def _readable(self, fd: int) -> None:
        with anyio.CancelScope() as self._scope:
            await anyio.wait_readable(fd)
        self._scope = None
