"""A simulated kernel and machine for the daemon.

One seed determines all of its decisions: in which order readiness is reported, when a slice ends, when a client's
descriptor is closed, which system call fails, and which message is late. This module is the only one that replaces
functions of the daemon for that.
"""

from __future__ import annotations

import contextlib
import errno
import random
import select
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final

import trio
import trio._core._run as scheduler

from sysmemd import access, daemon
from sysmemd.clock import TrioClock
from sysmemd.closing import ThreadClosing
from sysmemd.daemon import Parts
from sysmemd.in_flight import InFlight
from sysmemd.memory import Memory
from sysmemd.ports import Clock, Log, Peer
from sysmemd.testing import Faults, tested
from sysmemd.testing.syscalls import CALLS, Syscalls
from sysmemd.turns import Turns

_NO_ROOM: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
#: The errors that each system call can have in the state in which the daemon makes it.
ERRORS: Final[dict[str, Sequence[int]]] = {
    "memfd_create": _NO_ROOM,
    "ftruncate": (errno.ENOMEM, errno.ENOSPC),
    "open": _NO_ROOM,
    "fcntl": (errno.ENOLCK, errno.ENOMEM),
    "pipe2": _NO_ROOM,
    "eventfd2": _NO_ROOM,
    "socketpair": _NO_ROOM,
    "epoll_create1": _NO_ROOM,
    "epoll_ctl": (errno.ENOMEM, errno.ENOSPC),
    "sendmsg": (errno.ENOMEM, errno.ENOBUFS, errno.ETOOMANYREFS, errno.EAGAIN),
    "recvmsg": (errno.ENOMEM, errno.EINTR),
    "bind": (errno.ENOMEM, errno.EADDRINUSE),
    "inotify_add_watch": (errno.ENOMEM, errno.ENOSPC),
}
#: System calls that fail in a process that has no descriptors left.
_MAKE_DESCRIPTORS: Final = {name for name, errors in ERRORS.items() if errors is _NO_ROOM}
#: The daemon repeats these calls after an error.
_HARMLESS: Final = {errno.EAGAIN, errno.EINTR, errno.EADDRINUSE}
#: The functions through which the loop enters the daemon. The system calls of clients don't fail.
_ENTRIES: Final = (
    (Turns, "take"),
    (Memory, "process_events"),
    (TrioClock, "call_due"),
    (InFlight, "take"),
    (daemon.Serving, "connect"),
)
#: The maximum delay of the close of a client's descriptor, and of a message, in seconds.
_LATE_SECONDS: Final = 2.0


class Epoll:
    """An epoll instance that reports ready descriptors in random order, and not always all of them."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel
        self._epoll = kernel.make_epoll()
        self._tells_once = False

    def poll(self, timeout: float | None = None, maxevents: int = -1) -> list[tuple[int, int]]:
        """See :meth:`select.epoll.poll`."""
        # An event that is reported only once must not get lost.
        found = self._epoll.poll(timeout, maxevents if self._tells_once else -1)
        chance = self._kernel.chance
        chance.shuffle(found)
        if self._tells_once:
            return found
        if len(found) > 1 and chance.random() < 0.2:
            del found[chance.randrange(1, len(found)) :]
        return found if maxevents < 0 else found[:maxevents]

    def register(self, fd: int, eventmask: int) -> None:
        """See :meth:`select.epoll.register`."""
        self._kernel.may_fail("epoll_ctl")
        self._tells_once |= bool(eventmask & select.EPOLLET)
        self._epoll.register(fd, eventmask)

    def modify(self, fd: int, eventmask: int) -> None:
        """See :meth:`select.epoll.modify`."""
        self._kernel.may_fail("epoll_ctl")
        self._epoll.modify(fd, eventmask)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._epoll, name)


class LateClosing(ThreadClosing):
    """Closes descriptors of clients after a delay, without threads."""

    def __init__(self, kernel: Kernel, clock: Clock, log: Log) -> None:
        super().__init__(clock, log)
        self._kernel = kernel
        self._jobs_left: dict[Callable[[], None], None] = {}

    def _run(self, job: Callable[[], None], here: Callable[[], None] | None = None) -> None:
        job = here or job
        self._jobs_left[job] = None
        later = round(self._kernel.chance.random() ** 4 * _LATE_SECONDS * 1e9)
        self._clock.call_at(self._clock.now() + later, partial(self._close, job))

    def _close(self, job: Callable[[], None]) -> None:
        if job in self._jobs_left:
            del self._jobs_left[job]
            with contextlib.suppress(OSError):
                job()

    def end(self) -> None:
        """See :class:`ThreadClosing`."""
        for job in list(self._jobs_left):
            self._close(job)


class Kernel:
    """One machine, for one run of one seed."""

    def __init__(self, seed: int, say: Callable[[str], None]) -> None:
        """Start a machine. `say` is called with each fault."""
        self.chance = random.Random(f"kernel {seed}")
        self._say = say
        self._calls = Syscalls()
        self._inside = 0
        self._now = 0
        #: The maximum time that passes between two readings of the clock of slices, in nanoseconds.
        self._pace = self.chance.choice([1_000, 100_000, 400_000, 10_000_000])
        #: The probability that each system call fails, and that each message is late.
        self._failing = self.chance.choice([0, 0, 0.002, 0.01, 0.05])
        self._late = self.chance.choice([0, 0, 0.02, 0.2])
        #: The end of the time without descriptors.
        self._exhausted_until = -1.0
        #: The number of faults so far that may make a client fail.
        self.faults = 0
        #: Who connects next.
        self.peer = Peer(0, 0, 0)

    def calm(self) -> None:
        """Stop all faults and delays."""
        self._failing = self._late = 0
        self._exhausted_until = -1.0

    def run_out_of_descriptors(self, seconds: float) -> None:
        """Let the daemon have no descriptors for a while."""
        self._say(f"no descriptors for {seconds:.3f} s")
        self._exhausted_until = trio.current_time() + seconds

    @property
    def is_quiet(self) -> bool:
        """Whether this run has no faults."""
        return not self._failing and self._exhausted_until < 0

    def now(self) -> int:
        """Return the time that ends slices. It advances with each reading."""
        self._now += self.chance.randrange(self._pace)
        return self._now

    def lateness(self) -> int:
        """Return the delay of the next message, in nanoseconds."""
        if self.chance.random() >= self._late:
            return 0
        late = round(self.chance.random() * _LATE_SECONDS * 1e9)
        self._say(f"the next message is {late} ns late")
        return late

    def error(self, name: str) -> int | None:
        """Return the error of a system call, or None if it succeeds."""
        if not self._inside:
            return None
        if name in _MAKE_DESCRIPTORS and trio.current_time() < self._exhausted_until:
            self.faults += 1
            return errno.EMFILE
        if not self._failing or self.chance.random() >= self._failing:
            return None
        number = self.chance.choice(ERRORS[name])
        self.faults += number not in _HARMLESS
        self._say(f"{name} fails: {errno.errorcode[number]}")
        return number

    def may_fail(self, name: str) -> None:
        """Raise the error of a system call if it fails."""
        number = self.error(name)
        if number is not None:
            raise OSError(number, errno.errorcode[number])

    def make_epoll(self) -> select.epoll:
        """Return an epoll instance of this kernel."""
        return _EPOLL()

    def parts(self, faults: Faults, **others: Any) -> Parts:
        """Return the parts of a daemon on this machine."""
        return replace(
            tested(faults),
            closing=partial(LateClosing, self),
            now=self.now,
            used=self.now,
            **others,
        )

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Let this process run on this machine within the block, and its loop schedule tasks by the seed."""
        with contextlib.ExitStack() as stack:
            put = partial(_put, stack)
            for owner, name in _ENTRIES:
                put(owner, name, self._entering(getattr(owner, name)))
            for name in ERRORS:
                if name in CALLS and name != "epoll_create1":
                    self._calls.decide(name, partial(self.error, name))
            stack.callback(self._calls.undo)
            put(select, "epoll", self._epoll)
            put(access, "peer_of", lambda _: self.peer)
            put(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True)
            put(scheduler, "_r", random.Random(self.chance.random()))
            yield

    def _epoll(self) -> Epoll:
        self.may_fail("epoll_create1")
        return Epoll(self)

    def _entering(self, right: Callable[..., Any]) -> Callable[..., Any]:
        def enter(*arguments: Any, **named: Any) -> Any:
            self._inside += 1
            try:
                return right(*arguments, **named)
            finally:
                self._inside -= 1

        return enter


_EPOLL = select.epoll


def _put(stack: contextlib.ExitStack, owner: Any, name: str, value: object) -> None:
    stack.callback(setattr, owner, name, getattr(owner, name))
    setattr(owner, name, value)
