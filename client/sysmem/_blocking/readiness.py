"""Waiting for sockets of the program, with a deadline, in a thread."""

from __future__ import annotations

import select
import time

from .._timeouts import milliseconds, remaining

sleep = time.sleep


def readable(fd: int, deadline: float | None) -> bool:
    """Wait until the descriptor is readable. Return False if the deadline passes first."""
    return _ready(fd, select.POLLIN, deadline)


def writable(fd: int, deadline: float | None) -> bool:
    """Wait until the descriptor is writable. Return False if the deadline passes first."""
    return _ready(fd, select.POLLOUT, deadline)


def _ready(fd: int, events: int, deadline: float | None) -> bool:
    poll = select.poll()
    poll.register(fd, events)
    return bool(poll.poll(milliseconds(remaining(deadline))))
