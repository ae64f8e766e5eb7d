"""Watches whether the service sockets still exist at their paths, by inotify.

If a socket, its directory or a parent directory is removed or moved, new clients can no longer find the daemon,
although it continues to serve existing ones. A listening socket itself does not report that its path is gone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from .inotify import IN_DELETE, IN_MASK_ADD, IN_MOVE_SELF, IN_MOVED_FROM, IN_MOVED_TO, Inotify

#: Events that remove a name from a directory or replace its file, and the move of the directory itself.
_DIRECTORY = IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_MOVE_SELF | IN_MASK_ADD
#: A directory can be removed only after its contents, so for parent directories only moves matter.
_ABOVE = IN_MOVE_SELF | IN_MASK_ADD


class Presence:
    """Watches paths that must keep their current files."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Raises `OSError` if inotify has no instance or watch left, or if a directory of `paths` cannot be read."""
        self._inotify = Inotify()
        try:
            self._found = {path: _identity(path) for path in paths}
            for directory in {path.parent.resolve() for path in self._found}:
                self._inotify.watch(os.fspath(directory), _DIRECTORY)
                for above in directory.parents:
                    # Directories that the daemon may not read stay unwatched.
                    with contextlib.suppress(PermissionError):
                        self._inotify.watch(os.fspath(above), _ABOVE)
        except OSError:
            self._inotify.close()
            raise

    def fileno(self) -> int:
        """Return a descriptor that is readable when something may have happened to a path."""
        return self._inotify.fileno()

    def missing(self) -> list[Path]:
        """Return the paths that were removed or replaced since the last call.

        Raises `OSError` if the kernel's reports cannot be read; they are not lost.
        """
        self._inotify.read()
        before, self._found = self._found, {path: _identity(path) for path in self._found}
        return [path for path, identity in self._found.items() if identity != before[path]]

    def close(self) -> None:
        """Stop watching. Idempotent."""
        self._inotify.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of the file at a path, or None if there is none."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
