"""Tasks that wait for a condition that a descriptor announces."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.lowlevel

from .._timeouts import seconds
from .sleepers import Sleepers

T = TypeVar("T")


class Waiter:
    """Tasks that check a condition each time a descriptor becomes readable."""

    __slots__ = ("_closed", "_scope", "_sleepers")

    def __init__(self, fd: int, close: Callable[[], None]) -> None:
        """Wait for `fd`. After :meth:`close`, `close` is called once or twice when no task waits any more."""
        self._closed = False
        self._sleepers = Sleepers(lambda: fd, lambda: anyio.notify_closing(fd), close)
        self._scope: anyio.CancelScope | None = None

    async def until(
        self, attempt: Callable[[], T | None], timeout: float | None, late: Callable[[], str]
    ) -> T:
        """Return the result of `attempt()` as soon as it is not None. Call it each time the descriptor is readable.

        An exception of `attempt()` ends the wait.

        Raises:
            TimeoutError: `timeout` seconds have passed; `late()` is the text.
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
        """Let the waiting tasks check again, although the descriptor is not readable."""
        if self._scope is not None:
            self._scope.cancel()

    def close(self) -> None:
        """Wake all tasks, and close the descriptor when they are awake. Idempotent."""
        if not self._closed:
            self._closed = True
            self._sleepers.close()

    async def _readable(self, fd: int) -> None:
        with anyio.CancelScope() as self._scope:
            await anyio.wait_readable(fd)
        self._scope = None
