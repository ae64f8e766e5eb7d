"""Waiting for sockets of the program, with a deadline, in a task."""

from __future__ import annotations

import anyio

from .._timeouts import remaining

sleep = anyio.sleep


async def readable(fd: int, deadline: float | None) -> bool:
    """Wait until the descriptor is readable. Return False if the deadline passes first."""
    with anyio.move_on_after(remaining(deadline)):
        await anyio.wait_readable(fd)
        return True
    return False


async def writable(fd: int, deadline: float | None) -> bool:
    """Wait until the descriptor is writable. Return False if the deadline passes first."""
    with anyio.move_on_after(remaining(deadline)):
        await anyio.wait_writable(fd)
        return True
    return False
