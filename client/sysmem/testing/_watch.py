"""The processes of a running pipeline, and whether any of them is still active."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

#: The activity of a process: how long each of its threads ran, and how often.
Activity: TypeAlias = tuple[tuple[int, str], ...]


class Watch:
    """Processes by name: those that were added, and all their descendants started since.

    Each is identified by a pidfd, so a later process with the same pid is not mistaken for it.
    """

    def __init__(self) -> None:
        """Watch no process yet. The caller must close the watch."""
        self._names: dict[int, str] = {}
        self._open: dict[int, int] = {}

    def close(self) -> None:
        """Close the descriptors."""
        while self._open:
            os.close(self._open.popitem()[1])

    def add(self, names: Mapping[int, str]) -> None:
        """Watch these processes (names by pid), and all that they have started."""
        for pid, name in names.items():
            if pid not in self._names and pid != os.getpid():
                with contextlib.suppress(ProcessLookupError):
                    self._open[pid] = os.pidfd_open(pid)
            if pid not in self._names or name:
                self._names[pid] = name
        for pid in list(self._open):
            started = {child: "" for task in _tasks(pid) for child in _children(task)}
            if new := {child: "" for child in started if child not in self._names}:
                self.add(new)

    def wait(self, seconds: float) -> dict[int, str]:
        """Wait until one process ends, at most this many seconds. Return the names of those that still run, by pid."""
        poll = select.poll()
        for fd in self._open.values():
            poll.register(fd, select.POLLIN)
        ended = {fd for fd, _ in poll.poll(seconds * 1000)}
        for pid in [pid for pid, fd in self._open.items() if fd in ended]:
            os.close(self._open.pop(pid))
        return {pid: self._names[pid] or _command(pid) for pid in self._open}

    def activity(self) -> Activity | None:
        """Return the activity of the running processes so far, or None if one of them is runnable."""
        done = []
        for pid in self._open:
            for task in _tasks(pid):
                if state(task) not in ("S", "I", "T", "Z", ""):
                    return None
                done.append((int(task.name), _read(task / "schedstat")))
        return tuple(done)


def state(process: Path) -> str:
    """Return the state of a process or thread, as `ps` shows it; empty if it has ended."""
    return _read(process / "stat").rpartition(") ")[2][:1]


def told(clients: list[dict[str, Any]]) -> dict[int, str]:
    """Return the names of connected processes by pid, from a daemon's list of messages."""
    return {client["pid"]: client["name"] for client in clients}


def _tasks(pid: int) -> list[Path]:
    try:
        return list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:
        return []


def _children(task: Path) -> list[int]:
    return [int(child) for child in _read(task / "children").split()]


def _command(pid: int) -> str:
    return _read(Path(f"/proc/{pid}/comm")).strip() or "a process"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
