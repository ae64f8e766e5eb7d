"""Which system calls fail, with which errors: those that Linux's manual names and that the kernel can give there.

Left out are calls whose failing would be the test's lie, because strace's injection keeps the call from being made: a
`close` that fails has closed all the same, and so have `shutdown`, `munmap` and `exit` done what they do. So is `mmap`,
which is the interpreter's alone: the daemon maps no memory, and CPython waits for ever for a thread that found none for
its first call.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

#: By system call; of a group of calls that strace names apart each one has its line.
ERRORS: Mapping[str, tuple[str, ...]] = {
    "accept4": ("EMFILE", "ENFILE", "ENOMEM", "ECONNABORTED", "EAGAIN", "EPERM"),
    "bind": ("EADDRINUSE", "ENOMEM"),
    "clone3": ("EAGAIN",),
    "clone": ("EAGAIN",),
    "dup": ("EMFILE",),
    "epoll_create1": ("EMFILE", "ENFILE", "ENOMEM"),
    "epoll_ctl": ("ENOMEM", "ENOSPC"),
    "epoll_wait": ("EINTR",),
    "eventfd2": ("EMFILE", "ENFILE", "ENOMEM"),
    "fallocate": ("ENOSPC", "ENOMEM", "EINTR"),
    "fchmod": ("EPERM", "EIO"),
    "fcntl": ("ENOLCK", "EMFILE", "ENOMEM"),
    "fstat": ("ENOMEM",),
    "ftruncate": ("ENOMEM", "EINTR"),
    "getpeername": ("ENOBUFS",),
    "getsockname": ("ENOBUFS",),
    "getsockopt": ("ENOMEM",),
    "inotify_add_watch": ("ENOSPC", "ENOMEM", "EACCES"),
    "inotify_init1": ("EMFILE", "ENFILE", "ENOMEM"),
    "lseek": ("EINVAL",),
    "madvise": ("EAGAIN",),
    "memfd_create": ("EMFILE", "ENFILE", "ENOMEM"),
    "newfstatat": ("ENOMEM",),
    "openat": ("EMFILE", "ENFILE", "ENOMEM", "EACCES"),
    "pipe2": ("EMFILE", "ENFILE"),
    "poll": ("ENOMEM",),
    "pread64": ("EIO",),
    "read": ("EIO",),
    "readlink": ("ENOMEM", "ENOENT"),
    "recvmsg": ("ENOMEM", "EAGAIN", "ECONNRESET", "EINTR"),
    "sendmsg": ("ETOOMANYREFS", "EAGAIN", "ENOBUFS", "ENOMEM", "EPIPE"),
    "sendto": ("EAGAIN", "ENOBUFS", "ECONNREFUSED"),
    "setsockopt": ("ENOMEM",),
    "socket": ("EMFILE", "ENFILE", "ENOBUFS"),
    "socketpair": ("EMFILE", "ENFILE"),
    "statx": ("ENOMEM",),
    "write": ("EAGAIN", "ENOSPC", "EPIPE", "EIO"),
}


@dataclass(frozen=True, order=True)
class Fault:
    """One system call fails, the n-th time it is made; 0: always, as long as it lasts."""

    call: str
    error: str
    occurrence: int

    @property
    def injection(self) -> str:
        """What strace is told."""
        when = str(self.occurrence) if self.occurrence else "1+"
        return f"{self.call}:error={self.error}:when={when}"

    def __str__(self) -> str:
        return f"{self.call} {self.error} {self.occurrence or 'always'}"


def plan(counts: Mapping[str, int], most: int | None = None) -> list[Fault]:
    """Return all faults of a scenario that makes so many of each call; `most` occurrences of each, evenly spread."""
    faults = []
    for call, errors in ERRORS.items():
        count = counts.get(call, 0)
        step = max(1, -(-count // most)) if most else 1
        for error in errors:
            faults += [Fault(call, error, occurrence) for occurrence in range(1, count + 1, step)]
            if count:
                faults.append(Fault(call, error, 0))
    return faults


def sample(faults: list[Fault], size: int, seed: int) -> list[Fault]:
    """Return so many of the faults, the same ones for the same seed."""
    return random.Random(seed).sample(faults, min(size, len(faults)))
