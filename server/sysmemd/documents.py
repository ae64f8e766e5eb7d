"""Text that clients receive as a VMO: a sealed, read-only memfd (`docs/spec/inspect.md`)."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterable

from sysmem_protocol.handles import Handle

_FLAGS = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class Document:
    """A finished text. Every reader gets a file description of its own."""

    def __init__(self, name: str, parts: Iterable[bytes]) -> None:
        """Write the parts one after another. `name` appears in the system's lists of memory.

        Raises `OSError` if the process has no descriptor left, or the machine no memory.
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
        """Close the document. Opened handles stay valid. Idempotent."""
        self._memfd.close()
