"""Heaps: where memory comes from.

A heap is a small class with one interface (:class:`Heap`), so that real ones (:mod:`.dma_heap`) can be added. The heaps
here are all backed by memfds, the secure and the device-only ones too. That is enough to negotiate over them on an
ordinary machine (`docs/spec/linux.md`, "Heaps").
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
    """A heap as the configuration describes it, a `[[heap]]` section; plain data.

    Of the domains named for a secure heap only the inaccessible one counts. Raises `ValueError` when none is left.
    """

    heap_type: str
    id: int = 0
    domains: frozenset[CoherencyDomain] = _ALL_DOMAINS
    secure: bool = False
    #: Bytes of all buffers of this heap that exist at a time; `None`: what the machine has.
    max_bytes: int | None = None
    #: Where its memory comes from; None: memfds. A path under /dev/dma_heap makes all of its buffers dma-bufs.
    device: str | None = None
    #: Whether each buffer is physically contiguous.
    contiguous: bool = False

    def __post_init__(self) -> None:
        if self.secure:
            # A section that only says `secure = true` is not to be wrong for what it doesn't say.
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
    """Where the memory of buffers comes from."""

    @property
    def properties(self) -> HeapSettings:
        """What the heap is."""
        ...

    @property
    def used_bytes(self) -> int:
        """Bytes of the buffers that exist."""
        ...

    def allocate(self, name: str, size: int, *, writable: bool = True) -> Handle:
        """A zeroed VMO of `size` bytes (a multiple of the page size), for reading and writing; the caller owns it.

        Without `writable` no handle to it will be: a heap whose buffers have one open file opens that for reading only.
        `name` is shown where the system lists memory. Raises `NoMemoryError`, or an `OSError` that says what ran out,
        with nothing kept.
        """
        ...

    def reserve(self, handle: Handle, start: int, length: int) -> None:
        """Take the pages of a part of a VMO made here now, not at their first use. Raises `OSError` without them."""
        ...

    def delete(self, size: int) -> None:
        """The memory of an earlier `allocate` of `size` bytes is back with the system: nobody holds it any more."""
        ...


class PaidHeap:
    """A heap whose buffers somebody pays for; one object for each collection, whose buffers are all alike."""

    def __init__(self, heap: Heap, payer: Payer) -> None:
        self._heap = heap
        self._payer = payer
        self._gone: list[Callable[[], None]] = []

    @property
    def properties(self) -> HeapSettings:
        """What the heap is."""
        return self._heap.properties

    @property
    def used_bytes(self) -> int:
        """Bytes of the buffers that exist, everybody's."""
        return self._heap.used_bytes

    def allocate(self, name: str, size: int, *, writable: bool = True) -> Handle:
        """See :meth:`Heap.allocate`. The payer may be out of what it can pay for, too."""
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
        """What the heap is."""
        return self._properties

    @property
    def used_bytes(self) -> int:
        """Bytes of the buffers that exist."""
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
        """Count `size` more bytes as used. Raises `NoMemoryError`, and counts nothing, if that passes the limit."""
        limit = self._properties.max_bytes
        if limit is not None and self._used_bytes + size > limit:
            raise NoMemoryError(
                f"{self._properties}: {size} more bytes would pass its limit of {limit},"
                f" {self._used_bytes} are in use"
            )
        self._used_bytes += size

    def limit(self, max_bytes: int | None) -> None:
        """Change the limit; buffers that exist stay."""
        self._properties = replace(self._properties, max_bytes=max_bytes)

    def reserve(self, handle: Handle, start: int, length: int) -> None:
        """See :meth:`Heap.reserve`."""
        os.posix_fallocate(handle.fileno(), start, length)

    def delete(self, size: int) -> None:
        """See :meth:`Heap.delete`."""
        self._used_bytes -= size

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._properties}, {self._used_bytes} bytes in use>"
