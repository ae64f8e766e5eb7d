"""How much memory could be reserved without setting the out-of-memory killer on somebody.

Needed for eager allocation only: the kernel would rather kill a process (this one, in a container with a limit) than
let a reservation fail.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")


def memory_bytes(
    *, meminfo: Path = _MEMINFO, own_cgroup: Path = _OWN_CGROUP, cgroup_root: Path = _CGROUP_ROOT
) -> int:
    """Bytes left: the least of the machine's MemAvailable and of what each control group above allows."""
    left = 1 << 63
    with contextlib.suppress(OSError, ValueError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                left = int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):
        for line in own_cgroup.read_text().splitlines():
            if line.startswith(
                "0::/"
            ):  # version 2, the only one that a whole tree of limits is read from
                path = cgroup_root / line.removeprefix("0::/")
                groups = [path, *path.parents]
                left = min(left, *(_group_left(g) for g in groups if g.is_relative_to(cgroup_root)))
    return left


def _group_left(group: Path) -> int:
    try:
        limit = int((group / "memory.max").read_text())
        return max(0, limit - int((group / "memory.current").read_text()))
    except (OSError, ValueError):  # no limit: no such file, or the word "max" in it
        return 1 << 63
