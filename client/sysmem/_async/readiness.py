"""How a task waits for the time, and for sockets that are the program's own."""

from __future__ import annotations

import anyio

from .._timeouts import remaining

sleep = anyio.sleep


async def readable(fd: int, deadline: float | None) -> bool:
    """Wait until something can be received; False if it is too late."""
    with anyio.move_on_after(remaining(deadline)):
        await anyio.wait_readable(fd)
        return True
    return False


async def writable(fd: int, deadline: float | None) -> bool:
    """Wait until something may be sent; False if it is too late."""
    with anyio.move_on_after(remaining(deadline)):
        await anyio.wait_writable(fd)
        return True
    return False
