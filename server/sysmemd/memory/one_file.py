"""The life of a buffer whose handles are all one open file, such as a dma-buf, as far as the kernel reports it.

::

    SERVER ──drop_strong──▶ STRONG ──last reference but the server's──▶ UNKNOWN ──the server's──▶ GONE

Such a buffer has no locks, no separate access modes and no weak handles, and the kernel does not report that a
reference to it is gone. So `count:` in `/proc/self/fdinfo` is read repeatedly with growing pauses, from when the server
stops being a strong holder until there is no other reference. States and methods are those of :mod:`.buffer`.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable

from sysmem_protocol.handles import Handle, duplicate
from sysmemd.ports import ClientInfo, NoMemoryError, Payer

from . import vmo
from .buffer import Hold, Owner, Surroundings
from .heaps import PaidHeap
from .locks import Kind

#: The pauses between reads. The last one is repeated.
PAUSES_NS = (1_000_000, 10_000_000, 100_000_000, 300_000_000, 1_000_000_000)
#: The server's own descriptor.
_OWN_REFERENCES = 1
_FDINFO_BYTES = 4096


class OneFileBuffer:
    """One buffer. See the module's docstring for its states."""

    __slots__ = (
        "_cancel",
        "_owner",
        "_step",
        "_surroundings",
        "_vmo",
        "_writable",
        "heap",
        "hold",
        "identity",
        "index",
        "size",
        "watch",
    )

    def __init__(
        self,
        index: int,
        size: int,
        heap: PaidHeap,
        handle: Handle,
        owner: Owner,
        surroundings: Surroundings,
    ) -> None:
        """Take ownership of `handle`, a new dma-buf, even if this raises (`OSError`)."""
        self.index = index
        self.size = size
        self.heap = heap
        self.hold = Hold.SERVER
        self.watch: int | None = None
        self._vmo = handle
        try:
            self.identity = vmo.identity(handle.fileno())
            flags = fcntl.fcntl(handle.fileno(), fcntl.F_GETFL)
        except BaseException:
            handle.close()
            raise
        self._writable = flags & os.O_ACCMODE != os.O_RDONLY
        self._owner = owner
        self._surroundings = surroundings
        self._step = 0
        self._cancel: Callable[[], None] | None = None

    def reserve(self, start: int, length: int) -> None:
        """See :meth:`.Buffer.reserve`."""
        self.heap.reserve(self._vmo, start, length)

    # --- handles ------------------------------------------------------------------------------------------------

    def has_strong(self) -> bool:
        """Return whether there is any handle, including the server's, at this moment."""
        if self.hold is Hold.STRONG:
            return self._references() > _OWN_REFERENCES
        return self.hold is Hold.SERVER

    def is_strong(self, fd: int) -> bool:
        """Return whether a descriptor of this buffer is a strong handle. All are."""
        return True

    def open(self, kind: Kind, client: ClientInfo, *, writable: bool) -> Handle:
        """Return another descriptor of the one open file.

        Raises:
            NoMemoryError: A handle of another kind, or with another access mode, is requested.
            OSError: There are no descriptors left.
        """
        if kind is Kind.WEAK:
            raise NoMemoryError(f"a buffer of {self.heap.properties} has no weak handles")
        if writable is not self._writable:
            has = (
                "is writable for all holders" if self._writable else "is read-only for all holders"
            )
            raise NoMemoryError(f"a buffer of {self.heap.properties} {has}")
        return Handle(duplicate(self._vmo.fileno()))

    def open_signal(self, payer: Payer) -> Handle:
        """Refuse a `close_weak_asap`, because there are no weak handles."""
        raise NoMemoryError(f"a buffer of {self.heap.properties} has no weak handles")

    # --- changes ------------------------------------------------------------------------------------------------

    def drop_strong(self) -> None:
        """See :meth:`.Buffer.drop_strong`."""
        if self.hold is Hold.SERVER:
            self.hold = Hold.STRONG
            self.look()

    def look(self) -> None:
        """Read the number of references now, and again soon."""
        if self.hold is Hold.STRONG:
            self._step = 0
            self._ask()

    def discard(self) -> None:
        """See :meth:`.Buffer.discard`."""
        self.hold = Hold.GONE
        self._surroundings.reclaimer.close_vmo(self._vmo, lambda: self.heap.delete(self.size))

    def close(self) -> None:
        """See :meth:`.Buffer.close`."""
        self.hold = Hold.GONE
        self._stop_asking()
        self._vmo.close()

    def end(self) -> None:
        """Do nothing: no watch reports the end of such a buffer."""

    def _ask(self) -> None:
        self._stop_asking()
        if self.has_strong():
            clock = self._surroundings.clock
            pause = PAUSES_NS[min(self._step, len(PAUSES_NS) - 1)]
            self._step += 1
            self._cancel = clock.call_at(clock.now() + pause, self._ask)
            return
        self.hold = Hold.UNKNOWN
        self._owner.strong_handles_gone()
        self._surroundings.reclaimer.close_vmo(self._vmo, self._gone)

    def _gone(self) -> None:
        if self.hold is Hold.GONE:
            return  # the daemon has ended meanwhile
        self.hold = Hold.GONE
        self.heap.delete(self.size)
        self._surroundings.forget(self)
        self._owner.buffer_gone()

    def _stop_asking(self) -> None:
        if self._cancel is not None:
            self._cancel()
            self._cancel = None

    def _references(self) -> int:
        """Return the number of references to the open file: descriptors, mappings, and those of devices."""
        try:
            with open(f"/proc/self/fdinfo/{self._vmo.fileno()}", "rb", buffering=0) as fdinfo:
                lines = fdinfo.read(_FDINFO_BYTES).splitlines()
        except OSError:
            return _OWN_REFERENCES + 1  # the daemon is out of descriptors: try again
        return next(int(line.split()[1]) for line in lines if line.startswith(b"count:"))
