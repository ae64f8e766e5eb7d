"""The queue of users that wait for a turn (`docs/spec/robustness.md`, "Fair turns").

The user that has used the least of the daemon's CPU time comes first. So of two users with endless work each gets half,
in turn, and a user with little work is served as soon as a slice of the others ends. This is start-time fair queueing.
"""

from __future__ import annotations

import contextlib
import select
from collections.abc import Callable
from itertools import chain
from typing import Final

#: How far a user that has used little is ahead of the others at most, and how far one that has used much is behind
#: them, in nanoseconds of CPU time.
CREDIT_NS: Final = 900_000
DEBT_NS: Final = 1_000_000
#: The maximum number of ready descriptors that the kernel reports at a time.
MAX_EVENTS: Final = 64


class Queue:
    """What waits for a turn: users, connections that are not accepted yet, and reports of the kernel.

    The work of the loop has turns as a user's work has.
    """

    def __init__(self, *, alone: bool = False) -> None:
        """With `alone`, the loop reports its own work through a descriptor (:attr:`loop`).

        Raises `OSError` if the process has no descriptor left.
        """
        #: Readable when the loop has work that is not a user's; -1 if the loop does not report it.
        self.loop = -1
        self._users = select.epoll()
        self._others: select.epoll | None = None
        if not alone:
            try:
                self._others = select.epoll()
            except OSError:
                self._users.close()
                raise
        #: Users with work that the kernel does not know of, in order.
        self.unfinished: dict[int, None] = {}
        #: The CPU time that each has used, in nanoseconds. The scale has no fixed beginning.
        self._used: dict[int, int] = {}
        #: The highest time at which a measured turn began. Who was idle begins near it.
        self._level = 0
        #: The CPU time of all measured turns so far, in nanoseconds.
        self.charged = 0
        #: Called when a user gets work that the kernel does not know of.
        self.on_rouse: Callable[[], None] = lambda: None

    def close(self) -> None:
        """Remove all."""
        self._users.close()
        if self._others is not None:
            self._others.close()

    def enter(self, fd: int) -> None:
        """Add a descriptor that is readable when something other than a user has work. Raises `OSError`."""
        if self._others is not None:
            self._others.register(fd, select.EPOLLIN)

    def enter_loop(self, fd: int) -> None:
        """Add the loop's descriptor, which is readable when there is work that is not a user's. Raises `OSError`."""
        self.enter_user(fd)
        self.loop = fd

    def enter_user(self, fd: int) -> None:
        """Add a user's descriptor, which is readable when the user has work; see :meth:`wait`. Raises `OSError`."""
        self._users.register(fd, select.EPOLLIN)
        self._used[fd] = self._level

    def leave(self, fd: int) -> None:
        """Remove a descriptor that is about to be closed."""
        self.unfinished.pop(fd, None)
        self._used.pop(fd, None)
        for epoll in (self._users, self._others):
            if epoll is not None and not epoll.closed:
                with contextlib.suppress(OSError):  # closing the descriptor removes it in that case
                    epoll.unregister(fd)

    def fileno(self) -> int:
        """Return a descriptor that is readable when :meth:`wait` has a result. This object owns it."""
        return self._users.fileno()

    def wait(self, seconds: float) -> list[int]:
        """Wait at most this long until a user has work. Return the descriptors of these users in the order of turns."""
        unfinished = self.unfinished
        if not unfinished:
            due = list(dict(self._users.poll(seconds, MAX_EVENTS)))
        else:
            # Among users with equal CPU time, those that have just had a turn and have more work come last.
            ready = dict(self._users.poll(0, MAX_EVENTS))
            due = [*(fd for fd in ready if fd not in unfinished), *unfinished]
        if len(due) > 1:
            due.sort(key=self._time)
        return due

    def charge(self, fd: int, nanoseconds: int) -> None:
        """Count the CPU time of a turn."""
        self.charged += nanoseconds
        if fd in self._used:  # it may have left in its turn
            began = self._time(fd)
            self._level = max(self._level, began)
            self._used[fd] = min(began + nanoseconds, self._level + DEBT_NS)

    def _time(self, fd: int) -> int:
        """Return the CPU time that decides about the order of turns: idle users do not save more than the credit."""
        return max(self._used.get(fd, self._level), self._level - CREDIT_NS)

    def rouse(self, fd: int) -> None:
        """Record that a user has work, although `fd` is not readable."""
        if not self.unfinished:
            self.on_rouse()
        self.unfinished[fd] = None

    def waits(self, fd: int) -> bool:
        """Return whether the kernel reports work for the user with this descriptor."""
        return any(waiting == fd for waiting, _ in self._users.poll(0, MAX_EVENTS))

    def others_wait(self, fd: int, nanoseconds: int) -> bool:
        """Return whether anyone else comes before `fd`, which has used this CPU time since its turn began."""
        if self._others is not None and self._others.poll(0, 1):
            return True
        ready = self._users.poll(0, MAX_EVENTS)
        if not ready and not self.unfinished:
            return False
        until = self._time(fd) + nanoseconds
        waiting = chain(self.unfinished, (waiting for waiting, _ in ready))
        return any(other != fd and self._time(other) <= until for other in waiting)
