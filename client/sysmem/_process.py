"""The identity of this process: its name, and an object that a forked child does not share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from sysmem_protocol.owner import Cell, owned
from sysmem_protocol.owner import this_process as this_process

_STDERR: Final = 2
#: The placeholders at the numbers of standard descriptors that the program has closed.
_reserved: list[Cell] = []


def reserve_standard_descriptors() -> None:
    """Give the numbers of stdin, stdout and stderr to nothing of ours where the program has closed those.

    Libraries write messages there, which would come into a buffer or a channel. What takes the numbers instead refuses
    to be read and written, as if it was closed, and programs that are run don't inherit it. Raises `OSError`.
    """
    while (cell := owned(os.open, "/", os.O_PATH | os.O_CLOEXEC)).fileno() <= _STDERR:
        _reserved.append(cell)
    cell.close()


def process_name() -> str:
    """Return the name of this process, as `ps` shows it."""
    try:
        name = Path("/proc/self/comm").read_bytes()
    except OSError:
        return ""
    return name.decode(errors="replace").strip()
