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

    __slots__ = ("_close", "_process", "_turns")

    def __init__(self) -> None:
        self._turns: dict[_Ready, anyio.Event] = {}
        self._close: Callable[[], None] | None = None
        self._process = this_process()

    @property
    def any(self) -> bool:
        """Whether a task is asleep on the descriptor."""
        return bool(self._turns)

    @property
    def reading(self) -> bool:
        """Whether a task sleeps until something can be received, and will receive it."""
        return anyio.wait_readable in self._turns

    async def sleep(self, fd: int, ready: _Ready) -> bool:
        """Wait until `ready(fd)` has returned, here or in another task: look again then.

        True for the task that had the turn. It must act, before it awaits anything else, on what is ready.
        """
        turn = self._turns.get(ready)
        if turn is not None:
            await turn.wait()
            return False
        turn = self._turns[ready] = anyio.Event()
        try:
            await ready(fd)
        except anyio.ClosedResourceError:
            return True  # the caller looks for what has happened
        finally:
            del self._turns[ready]
            turn.set()
            if self._close is not None and not self._turns:
                self._close()
        return True

    def close(self, fd: int, close: Callable[[], None]) -> None:
        """Wake all, and have `close` called once nobody is asleep on the descriptor: at once, or very soon."""
        if not self._turns or self._process is not this_process():  # a fork takes no tasks along
            close()
            return
        self._close = close
        anyio.notify_closing(fd)
