"""Tasks that wait for a descriptor, under trio or asyncio.

Event loops let only one task at a time wait for a descriptor. So one of the tasks waits for it. When that task wakes
up, it wakes all others, which check their conditions again, and then one of them waits for the descriptor. A cancelled
task leaves its place to another one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from .._process import this_process

_Ready = Callable[[int], Awaitable[None]]


class Sleepers:
    """Tasks that wait for one descriptor. The descriptor is not closed before they have woken up.

    Otherwise its number could be reused while the event loop still waits for it.
    """

    __slots__ = ("_busy", "_close", "_closing", "_fileno", "_process", "_turns", "_wake")

    def __init__(
        self, fileno: Callable[[], int], wake: Callable[[], None], close: Callable[[], None]
    ) -> None:
        """`wake` makes the descriptor readable and writable, or wakes the waiting task. `close` closes it."""
        self._fileno = fileno
        self._wake = wake
        self._close = close
        self._turns: dict[_Ready, anyio.Event] = {}
        #: The current users of the descriptor. A signal handler may interrupt them.
        self._busy: dict[object, None] = {}
        self._closing = False
        self._process = this_process()

    @property
    def any(self) -> bool:
        """Whether a task waits for the descriptor."""
        return bool(self._turns)

    @property
    def reading(self) -> bool:
        """Whether a task waits until the descriptor is readable, and will receive."""
        return anyio.wait_readable in self._turns

    async def sleep(self, ready: _Ready) -> bool:
        """Wait until `ready(descriptor)` has returned, in this task or another. The caller must then check again.

        Returns True if this task waited for the descriptor itself. It must then receive or send before its next
        await.
        """
        turn = self._turns.get(ready)
        if turn is not None:
            await turn.wait()
            return False
        turn = anyio.Event()
        try:
            self._turns[ready] = turn
            if not self._closing:  # a close() after this point sees that this task waits
                await ready(self._fileno())
        except anyio.ClosedResourceError:
            return True  # the caller checks what has happened
        finally:
            if ready in self._turns:  # without calls, between which a KeyboardInterrupt could come
                del self._turns[ready]
            try:
                turn.set()
                if self._closing:
                    self.close()
            except BaseException:
                self._woken(turn)
                raise
        return True

    def _woken(self, turn: anyio.Event) -> None:
        """Do what remains after a task has woken up. Idempotent."""
        turn.set()
        if self._closing:
            self.close()

    def use(self, work: Callable[[], None]) -> None:
        """Do something that does not wait. The descriptor stays open meanwhile."""
        me = object()
        try:
            self._busy[me] = None
            work()
        finally:
            if me in self._busy:  # without calls, as above
                del self._busy[me]
            if self._closing:
                self.close()

    def close(self) -> None:
        """Close the descriptor as soon as no task uses it or waits for it. Idempotent."""
        self._closing = True
        if self._process is not this_process():  # a forked child does not have the tasks
            self._turns.clear()
            self._busy.clear()
        if self._turns or self._busy:
            self._wake()
        if not self._turns and not self._busy:
            self._close()
