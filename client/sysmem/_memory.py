"""The part of a VMO that is a buffer, and mappings of it that live as long as an object uses them."""

from __future__ import annotations

import mmap
from typing import NamedTuple


class Memory(NamedTuple):
    """Bytes `start` to `start + size` of a VMO."""

    fd: int
    start: int
    size: int
    writable: bool
    #: Whether writes into a read-only mapping stay private, instead of crashing the process.
    private: bool = False

    def map(self) -> mmap.mmap:
        """Map the VMO up to the end of the buffer. Objects that use the mapping keep it alive."""
        read_only = mmap.ACCESS_COPY if self.private else mmap.ACCESS_READ
        access = mmap.ACCESS_WRITE if self.writable else read_only
        return mmap.mmap(self.fd, self.start + self.size, access=access)

    def view(self) -> memoryview:
        """Map the buffer. The view keeps the mapping alive, and so the memory."""
        with memoryview(self.map()) as whole:
            return whole[self.start :]
