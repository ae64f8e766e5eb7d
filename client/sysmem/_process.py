"""Which process this is: its name, and an identity that a fork does not take along."""

from __future__ import annotations

from pathlib import Path

from sysmem_protocol.owner import this_process as this_process


def process_name() -> str:
    """Return the name of this process, as `ps` shows it."""
    try:
        name = Path("/proc/self/comm").read_bytes()
    except OSError:
        return ""
    return name.decode(errors="replace").strip()
