"""What the kernel tells of processes."""

from __future__ import annotations

import os
import resource
import time
from typing import Final

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
#: Fields of /proc/PID/stat after the command: the start time is the 22nd of all.
_START_TIME: Final = 19


def command(pid: int, since: float | None = None) -> str | None:
    """Return the name of a process's program, as `ps` shows it; None if there is no such process any more.

    `since` is a time on CLOCK_BOOTTIME in seconds: a process that started later has only got the same number.
    """
    if pid <= 0:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except OSError:
        return None
    name, _, rest = stat.partition(b" (")[2].rpartition(b") ")
    started = int(rest.split()[_START_TIME]) / _TICKS_PER_SECOND
    if since is not None and started > since + 1 / _TICKS_PER_SECOND:
        return None
    return name.decode(errors="backslashreplace")


class Commands:
    """The programs of processes, looked up once each."""

    def __init__(self) -> None:
        self._known: dict[int, str | None] = {}

    def of(self, pid: int, age_seconds: float) -> str | None:
        """Return the name of the program of a process that was there `age_seconds` ago."""
        if pid not in self._known:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            self._known[pid] = command(pid, now - age_seconds)
        return self._known[pid]


def open_descriptors() -> int:
    """Return how many descriptors this process has open."""
    # Linux 6.2 and later give the number as the directory's size.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))


def descriptor_limit() -> int:
    """Return how many descriptors this process may have open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
