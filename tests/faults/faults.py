"""The system calls that fail and their errors: those in Linux's manual that the kernel can return to the daemon.

strace makes calls fail by skipping them. Some real calls do their work although they report an error; a preloaded
library (`shim.c`) makes those fail. Calls that can't fail are listed, so every call of the daemon is either tried or
excluded for a reason.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

#: Calls that a preloaded library makes fail, in the order of the library's numbers. `mmap` calls come from the
#: interpreter; the daemon maps no memory. `send` is the C library's function for the call `sendto`. The send that wakes
#: the loop can't report EAGAIN, unless another byte waits there already.
SHIMMED: Mapping[str, tuple[str, ...]] = {
    "close": ("EIO", "EINTR", "ENOSPC"),
    "mmap": ("ENOMEM",),
    "munmap": ("ENOMEM",),
    "send": ("EAGAIN",),
    "shutdown": ("ENOTCONN",),
}
#: By system call. Variants that strace names differently, such as `clone` and `clone3`, have a row each.
INJECTED: Mapping[str, tuple[str, ...]] = {
    "accept4": ("EMFILE", "ENFILE", "ENOMEM", "ECONNABORTED", "EAGAIN", "EPERM"),
    "bind": ("EADDRINUSE", "ENOMEM"),
    "chmod": ("EPERM", "ENOMEM"),
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
    "flock": ("ENOLCK", "EAGAIN"),
    "fstat": ("ENOMEM",),
    "ftruncate": ("ENOMEM", "EINTR"),
    "getcwd": ("ENOMEM",),
    "getpeername": ("ENOBUFS",),
    "getsockname": ("ENOBUFS",),
    "getsockopt": ("ENOMEM",),
    "ioctl": ("EINVAL", "ENOTTY"),
    "inotify_add_watch": ("ENOSPC", "ENOMEM", "EACCES"),
    "inotify_init1": ("EMFILE", "ENFILE", "ENOMEM"),
    "lseek": ("EINVAL",),
    "madvise": ("EAGAIN",),
    "mkdir": ("ENOSPC", "EACCES"),
    "memfd_create": ("EMFILE", "ENFILE", "ENOMEM"),
    "newfstatat": ("ENOMEM",),
    "openat": ("EMFILE", "ENFILE", "ENOMEM", "EACCES"),
    "pipe2": ("EMFILE", "ENFILE"),
    "poll": ("ENOMEM",),
    "pread64": ("EIO", "ENOMEM"),
    "read": ("EIO",),
    "readlink": ("ENOMEM", "ENOENT"),
    "recvfrom": ("EINTR",),
    "recvmsg": ("ENOMEM", "EAGAIN", "ECONNRESET", "EINTR"),
    "rename": ("ENOSPC", "EACCES"),
    "sendmsg": ("ETOOMANYREFS", "EAGAIN", "ENOBUFS", "ENOMEM", "EPIPE"),
    "sendto": ("ENOBUFS", "ECONNREFUSED"),
    "setsockopt": ("ENOMEM",),
    "socket": ("EMFILE", "ENFILE", "ENOBUFS"),
    "socketpair": ("EMFILE", "ENFILE"),
    "statx": ("ENOMEM",),
    "unlink": ("EACCES", "EIO"),
    "unlinkat": ("EACCES", "EIO"),
    "write": ("EAGAIN", "ENOSPC", "EPIPE", "EIO"),
}
ERRORS: Mapping[str, tuple[str, ...]] = {**INJECTED, **SHIMMED}
#: Calls of the daemon that are not made to fail, with the reason.
LEFT_OUT: Mapping[str, str] = {
    **dict.fromkeys(
        ("brk", "mprotect", "mremap"),
        "the C library's allocator, which takes what is injected here for an address",
    ),
    **dict.fromkeys(
        (
            "exit",
            "exit_group",
            "futex",
            "rseq",
            "rt_sigprocmask",
            "rt_sigreturn",
            "set_robust_list",
        ),
        "the C library's, for threads and signals; can't fail",
    ),
    **dict.fromkeys(("restart_syscall",), "the kernel's own, after a stop"),
    **dict.fromkeys(
        (
            "clock_gettime",
            "getdents64",
            "getrandom",
            "listen",
            "prlimit64",
            "rt_sigaction",
            "geteuid",
            "getpid",
            "gettid",
            "getuid",
            "sched_yield",
            "sched_getaffinity",
            "sysinfo",
            "umask",
        ),
        "can't fail",
    ),
    **dict.fromkeys(("clock_gettime", "fstatfs"), "the preloaded library's own"),
    **dict.fromkeys(("clock_nanosleep", "select"), "a thread that waits before it tries again"),
}
#: Errors with a temporary cause, which the kernel therefore does not return forever.
_PASSING = {"EINTR"}


@dataclass(frozen=True, order=True)
class Fault:
    """One system call that fails at its n-th occurrence, or from then on."""

    call: str
    error: str
    occurrence: int
    lasting: bool = False
    #: Whether it fails while the daemon starts.
    starting: bool = False

    @property
    def injection(self) -> str:
        """Return the option of strace for this fault."""
        when = f"{self.occurrence}{'+' if self.lasting else ''}"
        return f"{self.call}:error={self.error}:when={when}"

    def __str__(self) -> str:
        when = f"{self.occurrence}{' and later' if self.lasting else ''}"
        return f"{self.call} {self.error} {when}{' at the start' if self.starting else ''}"


def plan(counts: Mapping[str, int], most: int | None = None) -> list[Fault]:
    """Return all faults of a scenario that makes this many of each call.

    There are at most `most` occurrences of each call, evenly spread. Each error also occurs as a lasting one, from the
    beginning and from the middle of the scenario.
    """
    faults = []
    for call, errors in ERRORS.items():
        count = counts.get(call, 0)
        step = max(1, -(-count // most)) if most else 1
        for error in errors:
            faults += [Fault(call, error, occurrence) for occurrence in range(1, count + 1, step)]
            if count and error not in _PASSING:
                begins = sorted({1, 1 + count // 2})
                faults += [Fault(call, error, begin, lasting=True) for begin in begins]
    return faults


def sample(faults: list[Fault], size: int, seed: int) -> list[Fault]:
    """Return this many of the faults. The same seed gives the same faults."""
    return random.Random(seed).sample(faults, min(size, len(faults)))
