"""The part of a VMO that a buffer is, and mappings of it that last as long as something looks at them."""

from __future__ import annotations

import mmap
from typing import NamedTuple


class Memory(NamedTuple):
    """Bytes `start` to `start + size` of a VMO."""

    fd: int
    start: int
    size: int
    writable: bool
    #: Whether what is written into a mapping that isn't writable stays in it, rather than crash.
    private: bool = False

    def map(self) -> mmap.mmap:
        """Map the VMO up to the end of the buffer. What looks at the mapping keeps it."""
        read_only = mmap.ACCESS_COPY if self.private else mmap.ACCESS_READ
        access = mmap.ACCESS_WRITE if self.writable else read_only
        return mmap.mmap(self.fd, self.start + self.size, access=access)

    def view(self) -> memoryview:
        """Map the buffer. The view keeps the mapping, and so the memory."""
        with memoryview(self.map()) as whole:
            return whole[self.start :]
