"""How a thread waits for the time, and for sockets that are the program's own."""

from __future__ import annotations

import select
import time

from .._timeouts import milliseconds, remaining

sleep = time.sleep


def readable(fd: int, deadline: float | None) -> bool:
    """Wait until something can be received; False if it is too late."""
    return _ready(fd, select.POLLIN, deadline)


def writable(fd: int, deadline: float | None) -> bool:
    """Wait until something may be sent; False if it is too late."""
    return _ready(fd, select.POLLOUT, deadline)


def _ready(fd: int, events: int, deadline: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(milliseconds(remaining(deadline))))
