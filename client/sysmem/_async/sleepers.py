"""Tasks asleep on a descriptor, under trio or asyncio.

Event loops let one task wait for a descriptor at a time. So one of the tasks has the turn; when it wakes up, all do and
look again for what they wait for, and one of them takes the next turn. A cancelled task just gives up its turn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from .._process import this_process

_Ready = Callable[[int], Awaitable[None]]


class Sleepers:
    """Tasks asleep on one descriptor, which isn't closed before they have woken up.

    Otherwise its number could be used anew under the event loop.
    """

    __slots__ = ("_busy", "_close", "_closing", "_fileno", "_process", "_turns", "_wake")

    def __init__(
        self, fileno: Callable[[], int], wake: Callable[[], None], close: Callable[[], None]
    ) -> None:
        """`wake` makes the descriptor readable and writable, or else wakes who waits for that; `close` closes it."""
        self._fileno = fileno
        self._wake = wake
        self._close = close
        self._turns: dict[_Ready, anyio.Event] = {}
        #: Those who use the descriptor now, whom a signal's handler may interrupt.
        self._busy: dict[object, None] = {}
        self._closing = False
        self._process = this_process()

    @property
    def any(self) -> bool:
        """Whether a task is asleep on the descriptor."""
        return bool(self._turns)

    @property
    def reading(self) -> bool:
        """Whether a task sleeps until something can be received, and will receive it."""
        return anyio.wait_readable in self._turns

    async def sleep(self, ready: _Ready) -> bool:
        """Wait until `ready(descriptor)` has returned, here or in another task: look again then.

        True for the task that had the turn. It must act, before it awaits anything else, on what is ready.
        """
        turn = self._turns.get(ready)
        if turn is not None:
            await turn.wait()
            return False
        turn = anyio.Event()
        try:
            self._turns[ready] = turn
            if not self._closing:  # a close() from here on sees the turn
                await ready(self._fileno())
        except anyio.ClosedResourceError:
            return True  # the caller looks for what has happened
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
        """See to what remains to be done when somebody has woken up. Idempotent."""
        turn.set()
        if self._closing:
            self.close()

    def use(self, work: Callable[[], None]) -> None:
        """Do something without waiting, in which the descriptor stays open."""
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
        """Close the descriptor once nobody uses it or is asleep on it: at once, or very soon. Idempotent."""
        self._closing = True
        if self._process is not this_process():  # a fork takes no tasks along
            self._turns.clear()
            self._busy.clear()
        if self._turns or self._busy:
            self._wake()
        if not self._turns and not self._busy:
            self._close()
