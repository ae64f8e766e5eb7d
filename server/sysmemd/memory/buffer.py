"""The life of one buffer, as reported by the kernel.

::

    SERVER ──drop_strong──▶ STRONG ──last strong handle──▶ WEAK ──last weak handle──▶ UNKNOWN ──last reference──▶ GONE

A buffer moves only to the right, and passes every state, though often several at once. The states:

SERVER
    A strong node exists, and the server is itself a strong holder. Other holders do not matter.
STRONG
    The server's own description no longer counts. Whenever a handle to this buffer was closed, the kernel is asked
    whether a strong handle is left. At the end of this state, every `close_weak_asap` closes.
WEAK
    The same for weak handles. Those that are left after :data:`LEAK_NS` are logged. At the end of this state the server
    closes its own description, which was the last reference if clients are honest. The memory is free before anything
    is signalled, even if a thread frees it (:mod:`.reclaim`).
UNKNOWN
    There may be references that hold none of the bytes of :mod:`.locks`: handles whose owner dropped its lock, or that
    were reopened through /proc. The watch keeps the inode number reserved, and reports the end, when the last holder's
    close is about to free the pages.
GONE
    The memory is returned to the heap, and trackers are signalled.
"""

from __future__ import annotations

import contextlib
import enum
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Protocol

from sysmem_protocol.handles import Handle, eventpair, stop_receiving
from sysmemd.ends import every
from sysmemd.ports import ClientInfo, Clock, Log, Payer

from . import locks, vmo
from .groups import Groups
from .heaps import PaidHeap
from .locks import Kind
from .reclaim import Reclaimer
from .signals import Event, SignalSet
from .watch import Hangups, InodeWatch

#: Weak handles are logged as leaked if they still exist this long after their `close_weak_asap`.
LEAK_NS = 5_000_000_000

#: A close is reported a moment before the handle's lock is released (in the kernel's __fput), and the closing process
#: may be preempted in between. So if the handle still exists, the kernel is asked again after these times, and then not
#: until the next report.
RECHECK_NS = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000, 10_000_000_000)

#: The maximum time until the kernel is asked again about a buffer's holders after it could not be asked.
RETRY_NS = 1_000_000_000

_KINDS = tuple(Kind)

#: Records of weak handles are cleaned up at this number; after that, whenever they have doubled.
_FEW_HANDLES = 32


class Hold(enum.Enum):
    """The strongest possible holder of a buffer."""

    SERVER = enum.auto()
    STRONG = enum.auto()
    WEAK = enum.auto()
    UNKNOWN = enum.auto()
    GONE = enum.auto()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The objects that all buffers of a daemon share."""

    watch: InodeWatch
    hangups: Hangups
    reclaimer: Reclaimer
    groups: Groups
    clock: Clock
    log: Log
    #: Processes everything that the watch has reported so far.
    refresh: Callable[[], None]
    #: Called with each buffer that is gone.
    forget: Callable[[Any], None]


class Owner(Protocol):
    """The notifications of a buffer to its collection. They are never sent in the middle of a change."""

    def label(self) -> dict[str, object]:
        """Return the collection's id and name, for the log."""
        ...

    def strong_handles_gone(self) -> None:
        """Handle that the last strong handle to this buffer is gone."""
        ...

    def buffer_gone(self) -> None:
        """Handle that the buffer's memory is reclaimed."""
        ...


class _Nobody:
    """The owner of a buffer that is gone. It ignores notifications."""

    def label(self) -> dict[str, object]:
        return {}

    def strong_handles_gone(self) -> None:
        """Do nothing: the buffer is gone."""

    def buffer_gone(self) -> None:
        """Do nothing: this was already reported."""


_NOBODY = _Nobody()


class Buffer:
    """One buffer. See the module's docstring for its states."""

    __slots__ = (
        "_cancel_leak",
        "_cancel_recheck",
        "_closing",
        "_ended",
        "_failed",
        "_given",
        "_owner",
        "_recheck_step",
        "_sift_at",
        "_signals",
        "_surroundings",
        "_vmo",
        "_wants_closings",
        "_watches_closings",
        "_weak_clients",
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
        """Take ownership of `handle`, a new VMO, even if this raises (`OSError`: out of watches or locks)."""
        self.index = index
        self.size = size
        self.heap = heap
        self.hold = Hold.SERVER
        self._vmo = handle
        self._owner: Owner = owner
        self._surroundings = surroundings
        self._given = dict.fromkeys(_KINDS, 0)
        self._weak_clients: dict[int, ClientInfo] = {}
        self._sift_at = _FEW_HANDLES
        self._signals = SignalSet(surroundings.groups)
        #: Whether the server's own description is being closed, and whether the watch has ended meanwhile.
        self._closing = self._ended = False
        #: Whether closes of handles are reported, and whether they should be.
        self._watches_closings = self._wants_closings = False
        #: Whether the kernel could not be asked last time.
        self._failed = False
        self._recheck_step = 0
        self._cancel_recheck: Callable[[], None] | None = None
        self._cancel_leak: Callable[[], None] | None = None
        try:
            locks.guard(handle.fileno())
            self.identity = vmo.identity(handle.fileno())
            self.watch: int | None = surroundings.watch.watch_end(handle.fileno())
        except BaseException:
            handle.close()
            raise

    def reserve(self, start: int, length: int) -> None:
        """Allocate the pages of a part now. Raises `OSError` if there are none left."""
        self.heap.reserve(self._vmo, start, length)

    # --- handles ------------------------------------------------------------------------------------------------

    def has_strong(self) -> bool:
        """Return whether a strong handle is left, including the server's own, at this moment."""
        if self.hold is Hold.STRONG:
            return locks.any_left(self._vmo.fileno(), Kind.STRONG, self._given[Kind.STRONG])
        return self.hold is Hold.SERVER

    def is_strong(self, fd: int) -> bool:
        """Return whether a description of this buffer is one of the delivered strong handles."""
        return locks.kinds_held(fd, self._given) == {Kind.STRONG}

    def open(self, kind: Kind, client: ClientInfo, *, writable: bool) -> Handle:
        """Return a new handle. Call it only while `has_strong`. Raises `OSError` if a resource is exhausted."""
        handle = vmo.reopen(self._vmo.fileno(), writable=writable)
        try:
            number = self._given[kind]
            locks.mark(handle.fileno(), kind, number)
        except BaseException:
            handle.close()
            raise
        self._given[kind] = number + 1
        if kind is Kind.WEAK:
            self._sift()
            self._weak_clients[number] = client
        return handle

    def open_signal(self, payer: Payer) -> Handle:
        """Return the client end of a new `close_weak_asap`. It is already closed if no strong handle is left.

        `payer` is charged for the other end. Raises `OSError` if a resource is exhausted, and `NoMemoryError` if the
        quota is exceeded.
        """
        if self.hold not in (Hold.SERVER, Hold.STRONG):
            near, far = eventpair()
            near.close()
            return far
        with ExitStack() as undo:
            closed = undo.callback(payer.pay_for_descriptor())
            near, far = map(undo.enter_context, eventpair())
            stop_receiving(near.fileno())
            self._signals.add(Event(near, self._surroundings.hangups, closed))
            undo.pop_all()
        return far

    # --- changes ------------------------------------------------------------------------------------------------

    def drop_strong(self) -> None:
        """Stop being a strong holder, as the server."""
        if self.hold is Hold.SERVER:
            self.hold = Hold.STRONG
            self._advance()
            if self.hold is Hold.UNKNOWN:
                return  # all other holders had closed it before, so there is nothing to watch
            self._wants_closings = True
            self.look()

    def look(self) -> None:
        """Ask the kernel which handles are left, because one may have been closed."""
        self._advance()
        if self.hold in (Hold.STRONG, Hold.WEAK):
            self._look_again_soon()

    def end(self) -> None:
        """Handle the end of the watch: there are no references left. The server itself may still be freeing it."""
        if self._closing:
            self._ended = True
            return
        self.close()
        self.heap.delete(self.size)
        self._surroundings.forget(self)
        owner, self._owner = self._owner, _NOBODY  # break the reference cycle
        owner.buffer_gone()

    def discard(self) -> None:
        """Release a buffer that was not delivered, because the allocation fails."""
        self.hold = Hold.GONE
        self._owner = _NOBODY
        self._surroundings.reclaimer.close_vmo(self._vmo, lambda: self.heap.delete(self.size))

    def close(self) -> None:
        """Release everything without notifying the owner, because the daemon ends."""
        self.hold = Hold.GONE
        for cancel in (self._cancel_recheck, self._cancel_leak):
            if cancel is not None:
                cancel()
        self._cancel_recheck = self._cancel_leak = None
        self._signals.signal()
        self._vmo.close()

    def _advance(self) -> None:
        failed, self._failed = self._failed, False
        try:
            every((self._watch_closings, self._advance_as_far_as_known))
        except OSError as error:
            self._failed = True
            if not failed:
                self._surroundings.log.error(
                    "cannot determine who holds a buffer; trying again",
                    **self._label(),
                    reason=str(error),
                )

    def _watch_closings(self) -> None:
        if self._wants_closings and not self._watches_closings:
            self._surroundings.watch.watch_closings(self._vmo.fileno())
            self._watches_closings = True

    def _advance_as_far_as_known(self) -> None:
        if self.hold is Hold.STRONG and not self.has_strong():
            self.hold = Hold.WEAK
            clock = self._surroundings.clock
            self._cancel_leak = clock.call_at(clock.now() + LEAK_NS, self._report_leaks)
            every((self._signals.signal, self._owner.strong_handles_gone))
        if self.hold is Hold.WEAK and not locks.any_left(
            self._vmo.fileno(), Kind.WEAK, self._given[Kind.WEAK]
        ):
            self.hold = Hold.UNKNOWN
            if self._watches_closings:
                with contextlib.suppress(OSError):
                    # Further closings carry no information, and each would wake the daemon.
                    self._surroundings.watch.watch_end(self._vmo.fileno())
            self._closing = True
            self._surroundings.reclaimer.close_vmo(self._vmo, self._let_go, size=self.size)

    def _let_go(self) -> None:
        self._closing = False
        if self._ended:
            self.end()

    def _look_again_soon(self) -> None:
        if self._cancel_recheck is not None:
            if self._recheck_step == 0:
                return  # so a client that causes many closes costs one call per millisecond
            self._cancel_recheck()
        self._recheck_step = 0
        self._schedule_recheck()

    def _schedule_recheck(self) -> None:
        clock = self._surroundings.clock
        wait = RECHECK_NS[min(self._recheck_step, len(RECHECK_NS) - 1)]
        if self._failed:
            wait = min(wait, RETRY_NS)
        self._cancel_recheck = clock.call_at(clock.now() + wait, self._recheck)

    def _recheck(self) -> None:
        self._cancel_recheck = None
        self._recheck_step += 1
        self._advance()
        if self.hold in (Hold.STRONG, Hold.WEAK) and (
            self._failed or self._recheck_step < len(RECHECK_NS)
        ):
            self._schedule_recheck()

    # --- weak handles and their clients ---------------------------------------------------------------------------

    def _left_weak(self) -> dict[int, ClientInfo]:
        fd = self._vmo.fileno()
        return {
            number: client
            for number, client in self._weak_clients.items()
            if locks.is_left(fd, Kind.WEAK, number)
        }

    def _sift(self) -> None:
        """Remove closed weak handles, rarely enough that each new one costs little."""
        if len(self._weak_clients) >= self._sift_at:
            self._weak_clients = self._left_weak()
            self._sift_at = max(_FEW_HANDLES, 2 * len(self._weak_clients))

    def _label(self) -> dict[str, object]:
        return {**self._owner.label(), "buffer_index": self.index}

    def _report_leaks(self) -> None:
        self._cancel_leak = None
        self._advance()
        self._surroundings.refresh()
        log = self._surroundings.log
        if self.hold is Hold.WEAK:
            for client, handles in Counter(self._left_weak().values()).items():
                log.error(
                    "weak VMO handles leaked: still open 5 s after close_weak_asap",
                    **self._label(),
                    client_name=client.name,
                    client_id=client.id,
                    handles=handles,
                )
        elif self._closing:  # the server itself is still freeing it
            clock = self._surroundings.clock
            self._cancel_leak = clock.call_at(clock.now() + LEAK_NS, self._report_leaks)
        elif self.hold is Hold.UNKNOWN:
            log.error(
                "memory leaked: still held 5 s after close_weak_asap, but not through a handle from the daemon",
                **self._label(),
            )
