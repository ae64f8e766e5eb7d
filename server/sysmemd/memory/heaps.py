"""Heaps: the sources of memory.

A heap is a small class with one interface (:class:`Heap`), so that hardware heaps (:mod:`.dma_heap`) can be added. The
heaps here are all backed by memfds, including the secure and the device-only ones. This is enough to negotiate over
them on an ordinary machine (`docs/spec/linux.md`, "Heaps").
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from sysmem_protocol import sysmem2
from sysmem_protocol.handles import Handle
from sysmem_protocol.sysmem2 import CoherencyDomain
from sysmemd.ports import NoMemoryError, Payer

from . import vmo

_ALL_DOMAINS = frozenset(CoherencyDomain)


@dataclass(frozen=True, slots=True)
class HeapSettings:
    """A heap as plain data from the configuration, a `[[heap]]` section.

    For a secure heap only the inaccessible domain is kept. Raises `ValueError` if no domain is left.
    """

    heap_type: str
    id: int = 0
    domains: frozenset[CoherencyDomain] = _ALL_DOMAINS
    secure: bool = False
    #: The maximum number of bytes of all existing buffers of this heap; `None` means no limit.
    max_bytes: int | None = None
    #: The source of its memory; None means memfds. With a path under /dev/dma_heap all of its buffers are dma-bufs.
    device: str | None = None
    #: Whether each buffer is physically contiguous.
    contiguous: bool = False

    def __post_init__(self) -> None:
        if self.secure:
            # A section that only has `secure = true` must not be invalid because of the default domains.
            inaccessible = self.domains & {CoherencyDomain.INACCESSIBLE}
            object.__setattr__(self, "domains", inaccessible)
        if not self.domains:
            raise ValueError(
                f"{self}: a heap supports at least one domain, a secure one the inaccessible one"
            )

    def __str__(self) -> str:
        return f"heap {self.heap_type} (id {self.id})"


#: The heap that always exists, with all three domains.
SYSTEM_RAM = HeapSettings(heap_type=sysmem2.SYSTEM_RAM_HEAP.heap_type or "", id=0)


class Heap(Protocol):
    """The source of the memory of buffers."""

    @property
    def properties(self) -> HeapSettings:
        """The heap's settings."""
        ...

    @property
    def used_bytes(self) -> int:
        """The number of bytes of the existing buffers."""
        ...

    def allocate(self, name: str, size: int, *, writable: bool = True) -> Handle:
        """Return a zeroed VMO of `size` bytes (a multiple of the page size), readable and writable. The caller owns it.

        Without `writable`, no handle to it will be writable: a heap whose buffers have one open file opens it
        read-only. `name` appears in the system's lists of memory. Raises `NoMemoryError`, or an `OSError` that says
        which resource is exhausted. Nothing is kept then.
        """
        ...

    def reserve(self, handle: Handle, start: int, length: int) -> None:
        """Allocate the pages of a part of a VMO of this heap now, not at first use. Raises `OSError` on failure."""
        ...

    def delete(self, size: int) -> None:
        """Record that the memory of an earlier `allocate` of `size` bytes is free."""
        ...


class PaidHeap:
    """A heap whose buffers are charged to a payer; one object for each collection, whose buffers are all equal."""

    def __init__(self, heap: Heap, payer: Payer) -> None:
        self._heap = heap
        self._payer = payer
        self._gone: list[Callable[[], None]] = []

    @property
    def properties(self) -> HeapSettings:
        """The heap's settings."""
        return self._heap.properties

    def allocate(self, name: str, size: int, *, writable: bool = True) -> Handle:
        """See :meth:`Heap.allocate`. Also fails if the payer's quota is exceeded."""
        gone = self._payer.pay_for_buffer(size)
        try:
            made = self._heap.allocate(name, size, writable=writable)
        except BaseException:
            gone()
            raise
        self._gone.append(gone)
        return made

    def reserve(self, handle: Handle, start: int, length: int) -> None:
        """See :meth:`Heap.reserve`."""
        self._heap.reserve(handle, start, length)

    def delete(self, size: int) -> None:
        """See :meth:`Heap.delete`."""
        self._heap.delete(size)
        self._gone.pop()()


class MemfdHeap:
    """A heap backed by memfds."""

    def __init__(self, settings: HeapSettings = SYSTEM_RAM) -> None:
        self._properties = settings
        self._used_bytes = 0

    @property
    def properties(self) -> HeapSettings:
        """The heap's settings."""
        return self._properties

    @property
    def used_bytes(self) -> int:
        """The number of bytes of the existing buffers."""
        return self._used_bytes

    def allocate(self, name: str, size: int, *, writable: bool = True) -> Handle:
        """See :meth:`Heap.allocate`."""
        self.count(size)
        try:
            return self._create(name, size, writable=writable)
        except BaseException:
            self.delete(size)
            raise

    def _create(self, name: str, size: int, *, writable: bool) -> Handle:
        return vmo.create(name, size)

    def count(self, size: int) -> None:
        """Count `size` more bytes as used. Raises `NoMemoryError` without counting if that exceeds the limit."""
        limit = self._properties.max_bytes
        if limit is not None and self._used_bytes + size > limit:
            raise NoMemoryError(
                f"{self._properties}: {size} more bytes would pass its limit of {limit},"
                f" {self._used_bytes} are in use"
            )
        self._used_bytes += size

    def limit(self, max_bytes: int | None) -> None:
        """Change the limit. Existing buffers are not affected."""
        self._properties = replace(self._properties, max_bytes=max_bytes)

    def reserve(self, handle: Handle, start: int, length: int) -> None:
        """See :meth:`Heap.reserve`."""
        os.posix_fallocate(handle.fileno(), start, length)

    def delete(self, size: int) -> None:
        """See :meth:`Heap.delete`."""
        self._used_bytes -= size

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._properties}, {self._used_bytes} bytes in use>"
