"""How much memory can be reserved without triggering the out-of-memory killer.

Only eager allocation needs this: the kernel would kill a process (in a container with a limit, this one) instead of
failing a reservation.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_OWN_CGROUP = Path("/proc/self/cgroup")
_CGROUP_ROOT = Path("/sys/fs/cgroup")

#: The files with a group's limit and usage, in versions 2 and 1 of control groups.
_UNIFIED = ("memory.max", "memory.current")
_LEGACY = ("memory.limit_in_bytes", "memory.usage_in_bytes")


def memory_bytes(
    *, meminfo: Path = _MEMINFO, own_cgroup: Path = _OWN_CGROUP, cgroup_root: Path = _CGROUP_ROOT
) -> int:
    """Return the available bytes: the minimum of the machine's MemAvailable and the room in each enclosing group."""
    left = 1 << 63
    with contextlib.suppress(OSError, ValueError):
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                left = int(line.split()[1]) * 1024
    with contextlib.suppress(OSError, ValueError):
        for line in own_cgroup.read_text().splitlines():
            # 0::/user.slice or 4:memory:/user.slice
            _, controllers, path = line.split(":", 2)
            if not controllers:
                limits = _hierarchy_left(_unified_root(cgroup_root), path, *_UNIFIED)
            elif "memory" in controllers.split(","):
                limits = _hierarchy_left(cgroup_root / "memory", path, *_LEGACY)
            else:
                continue
            left = min(left, limits)
    return left


def _unified_root(cgroup_root: Path) -> Path:
    """Return where version 2 is mounted: next to version 1's hierarchies it has a directory of its own."""
    beside = cgroup_root / "unified"
    alone = (cgroup_root / "cgroup.controllers").exists()
    return beside if beside.is_dir() and not alone else cgroup_root


def _hierarchy_left(root: Path, path: str, limit: str, usage: str) -> int:
    # In a container the path may be the host's. Only the root is visible then, and it is the container's group.
    own = root / path.lstrip("/")
    groups = [group for group in (own, *own.parents) if group.is_relative_to(root)]
    return min(_group_left(group / limit, group / usage) for group in groups)


def _group_left(limit: Path, usage: Path) -> int:
    try:
        return max(0, int(limit.read_text()) - int(usage.read_text()))
    except (OSError, ValueError):  # there is no limit: the file is missing, or contains "max"
        return 1 << 63
