"""Text that is given to clients as a VMO: a sealed memfd for reading (`docs/spec/inspect.md`)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable

from sysmem_protocol.handles import Handle

_FLAGS = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Document:
    """A finished text, of which every reader gets a file description of its own."""

    def __init__(self, name: str, parts: Iterable[bytes]) -> None:
        """Write the parts one after another. `name` is shown where the system lists memory.

        Raises `OSError` when the process has no descriptor, or the machine no memory, left.
        """
        self._memfd = Handle(os.memfd_create(name, _FLAGS))
        try:
            fd = self._memfd.fileno()
            with open(fd, "wb", closefd=False) as file:
                file.writelines(parts)
            os.fchmod(fd, 0o400)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            self.close()
            raise

    def open(self) -> Handle:
        """Return a new read-only handle at offset 0, which the caller owns. Raises `OSError`."""
        path = f"/proc/self/fd/{self._memfd.fileno()}"
        return Handle(os.open(path, os.O_RDONLY | os.O_CLOEXEC))

    def close(self) -> None:
        """Close the document; handles that were opened stay. Idempotent."""
        self._memfd.close()
