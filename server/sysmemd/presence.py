"""Whether the service sockets can still be found at their paths, as inotify reports it.

Whoever removes or moves a socket, its directory or a directory above takes the daemon away from all clients to come,
while it goes on serving those it has. Nothing else tells a listening socket that its path is gone.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path

from .inotify import IN_DELETE, IN_MASK_ADD, IN_MOVE_SELF, IN_MOVED_FROM, IN_MOVED_TO, Inotify

#: What takes a name out of a directory, or puts another file in its place; moving the directory itself.
_DIRECTORY = IN_DELETE | IN_MOVED_FROM | IN_MOVED_TO | IN_MOVE_SELF | IN_MASK_ADD
#: A directory can be removed only after what is in it; so above only moving matters.
_ABOVE = IN_MOVE_SELF | IN_MASK_ADD


class Presence:
    """Watches over paths that must stay what they are now."""

    def __init__(self, paths: Iterable[Path]) -> None:
        """Raises `OSError` when inotify has no instance or watch left, or a directory of `paths` can't be read."""
        self._inotify = Inotify()
        try:
            self._found = {path: _identity(path) for path in paths}
            for directory in {path.parent.resolve() for path in self._found}:
                self._inotify.watch(os.fspath(directory), _DIRECTORY)
                for above in directory.parents:
                    # Those that the daemon may not read stay unwatched.
                    with contextlib.suppress(PermissionError):
                        self._inotify.watch(os.fspath(above), _ABOVE)
        except OSError:
            self._inotify.close()
            raise

    def fileno(self) -> int:
        """Readable when something may have happened to a path."""
        return self._inotify.fileno()

    def missing(self) -> list[Path]:
        """Return the paths that since the last time have been removed, or replaced by something else.

        Raises `OSError` when the kernel's reports can't be read; they are still there then.
        """
        self._inotify.read()
        before, self._found = self._found, {path: _identity(path) for path in self._found}
        return [path for path, identity in self._found.items() if identity != before[path]]

    def close(self) -> None:
        """Watch no more. Idempotent."""
        self._inotify.close()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return the device and inode of what is at a path, None if nothing can be found there."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino
