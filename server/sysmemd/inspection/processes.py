"""The kernel's information about processes."""

from __future__ import annotations

import os
import resource
import time
from typing import Final

_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
#: The index of the start time in /proc/PID/stat after the command. It is the 22nd field in all.
_START_TIME: Final = 19


def command(pid: int, since: float | None = None) -> str | None:
    """Return the name of a process's program, as `ps` shows it, or None if the process has ended.

    `since` is a time on CLOCK_BOOTTIME in seconds. A process that started later is another one with the same pid.
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
    """The programs of processes, each looked up once."""

    def __init__(self) -> None:
        self._known: dict[int, str | None] = {}

    def of(self, pid: int, age_seconds: float) -> str | None:
        """Return the name of the program of a process that existed `age_seconds` ago."""
        if pid not in self._known:
            now = time.clock_gettime(time.CLOCK_BOOTTIME)
            self._known[pid] = command(pid, now - age_seconds)
        return self._known[pid]


def open_descriptors() -> int:
    """Return the number of open descriptors of this process."""
    # Linux 6.2 and later report the number as the directory's size.
    return os.stat("/proc/self/fd").st_size or len(os.listdir("/proc/self/fd"))


def descriptor_limit() -> int:
    """Return the maximum number of open descriptors of this process."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]
