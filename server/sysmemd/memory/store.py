"""All buffers of a daemon: their allocation, delivery and identification, and their events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Final, Literal

from sysmem_protocol import sysmem2
from sysmem_protocol.handles import Handle
from sysmem_protocol.sysmem2 import SingleBufferSettings
from sysmemd.ends import every
from sysmemd.inotify import MAX_REPORTS
from sysmemd.pause import give_way, giving_way
from sysmemd.ports import NOBODY, Clock, Log, NoMemoryError, Payer

from . import vmo
from .buffer import Buffer, Surroundings
from .collection import Buffers
from .groups import Groups
from .handle_info import HandleInfo
from .heaps import Heap, MemfdHeap, PaidHeap
from .one_file import OneFileBuffer
from .reclaim import Reclaimer
from .reserve import Reservations
from .signals import Event
from .watch import Hangups, InodeWatch, Reports

#: How many reports are taken at a time; others are served before the next ones.
_REPORTS_AT_ONCE: Final = 8
#: How often in a row there may be nothing to read where the kernel had said so.
_MAX_FRUITLESS = 64

HeapKey = tuple[str, int]


@dataclass(frozen=True, slots=True)
class HeapStatistics:
    """One heap's use of memory."""

    heap_type: str
    id: int
    used_bytes: int
    max_bytes: int | None


@dataclass(frozen=True, slots=True)
class MemoryStatistics:
    """The current memory use. `buffers` counts by state (:class:`.buffer.Hold`)."""

    heaps: tuple[HeapStatistics, ...]
    collections: int
    buffers: dict[str, int]


class Memory:
    """The memory of one daemon.

    The owner waits until :meth:`fileno` is readable and then calls :meth:`process_events`. No method blocks, and
    nothing polls: timers run for a few seconds after a change with a waiter, and never when idle.
    """

    def __init__(
        self,
        heaps: Sequence[Heap] = (),
        *,
        allocation: Literal["lazy", "eager"] = "lazy",
        clock: Clock,
        log: Log,
    ) -> None:
        """`heaps` are all heaps; the system heap is created if it is not among them. Of duplicates the first counts.

        With `allocation` "eager", all pages are reserved during an allocation, which fails if there are not enough.
        Raises `OSError` if the user has no inotify instance left, or the process no descriptor.
        """
        self._heaps: dict[HeapKey, Heap] = {}
        for heap in (*heaps, MemfdHeap()):
            self._heaps.setdefault((heap.properties.heap_type, heap.properties.id), heap)
        self._eager = allocation == "eager"
        self._reservations = Reservations(clock)
        self._hangups = Hangups()
        with ExitStack() as undo:
            undo.callback(self._hangups.close)
            self._watch = InodeWatch()
            undo.callback(self._watch.close)
            self._reclaimer = Reclaimer(self._hangups)
            undo.pop_all()
        self._groups = Groups(clock)
        self._hangups.add_readable(self._watch.fileno(), self._read_reported)
        self._surroundings = Surroundings(
            self._watch,
            self._hangups,
            self._reclaimer,
            self._groups,
            clock,
            log,
            refresh=self._refresh,
            forget=self._forget,
        )
        self._by_watch: dict[int, Buffer | OneFileBuffer] = {}
        self._by_identity: dict[tuple[int, int], tuple[Buffers, Buffer | OneFileBuffer]] = {}
        self._closed = False
        #: Whether there may have been unreported closes that were not checked since.
        self._missed_some = False
        #: The number of consecutive reads without data after the kernel reported that there was some.
        self._fruitless = 0
        self._said_simulated = False

    def fileno(self) -> int:
        """Return a descriptor that is readable when :meth:`process_events` has something to do. This object owns it."""
        return self._hangups.fileno()

    def process_events(self) -> None:
        """Process what the kernel reported: closes of handles, mappings and eventpairs. Never blocks.

        One call does a limited amount of work. `fileno` stays readable if there is more.
        """
        self._hangups.process()

    @property
    def is_fruitless(self) -> bool:
        """Whether the kernel keeps reporting data that cannot be read, so that reading is useless."""
        return self._fruitless >= _MAX_FRUITLESS

    def close(self) -> None:
        """Release all buffers. Their memory is freed with the clients' handles. Idempotent."""
        if not self._closed:
            self._closed = True
            for collection in {id(c): c for c, _ in self._by_identity.values()}.values():
                collection.close()
            self._by_watch.clear()
            self._by_identity.clear()
            self._groups.finish()
            self._reservations.close()
            self._reclaimer.close()
            self._hangups.close()
            self._watch.close()

    # --- allocation ---------------------------------------------------------------------------------------------

    def allocate(
        self,
        *,
        collection_id: int,
        name: str,
        settings: SingleBufferSettings,
        count: int,
        writable: bool = True,
        on_no_strong: Callable[[], None],
        is_wanted: Callable[[], bool] = lambda: True,
        done: Callable[[Buffers | Exception], None],
        payer: Payer = NOBODY,
    ) -> None:
        """Allocate `count` buffers of `raw_vmo_size` bytes from the settings' heap. The server is a strong holder.

        `done` is called with them, or with the reason of a failure, after which nothing is kept: a `NoMemoryError`, or
        an internal error. It is called before this returns, or later from `process_events` or through the clock: if
        many pages must be reserved (for as long as `is_wanted`), or if memory that is just being freed may be enough.

        Their memfds are called `<name>:<index>`, or `sysmem:<index>` if the name is empty. `on_no_strong` is called
        once when the last strong handle of every buffer is gone. It is called through the clock, so never from within a
        call made here. `writable` is whether any handle to the buffers may be writable. `payer` is charged for them as
        long as they exist.
        """
        memory = settings.buffer_settings
        simulated = memory.is_physically_contiguous and not self._is_contiguous(memory.heap)
        if simulated and not self._said_simulated:
            self._said_simulated = True
            self._surroundings.log.info(
                "physically contiguous memory is simulated: an ordinary buffer is reported as contiguous",
                collection_id=collection_id,
                collection_name=name,
            )
        buffers = Buffers(
            collection_id,
            name,
            settings,
            on_no_strong=on_no_strong,
            surroundings=self._surroundings,
        )
        self._make(buffers, count, payer, is_wanted, done, writable=writable)

    def _make(
        self,
        buffers: Buffers,
        count: int,
        payer: Payer,
        is_wanted: Callable[[], bool],
        done: Callable[[Buffers | Exception], None],
        *,
        writable: bool,
        again: bool = False,
    ) -> None:
        def finish(error: Exception | None) -> None:
            if error is None:
                self._register(buffers)
                done(buffers)
            else:
                buffers.discard()
                done(error)

        try:
            self._refresh()  # so that memory that was just freed counts
            self._fill(buffers, count, payer, writable=writable)
        except Exception as error:
            retry = partial(
                self._make, buffers, count, payer, is_wanted, done, writable=writable, again=True
            )
            if again or not self._reclaimer.when_freed(retry):
                done(error)
            return
        if self._eager:
            self._reservations.reserve(buffers.buffers, is_wanted, finish)
        else:
            finish(None)

    def _fill(self, collection: Buffers, count: int, payer: Payer, *, writable: bool) -> None:
        """Create a collection's buffers without their pages. Raises `NoMemoryError`; nothing is kept then."""
        memory = collection.settings.buffer_settings
        heap = PaidHeap(self._heap(memory.heap), payer)
        kind = Buffer if heap.properties.device is None else OneFileBuffer
        size = memory.raw_vmo_size
        if size > vmo.MAX_BYTES:
            raise NoMemoryError(f"{size} bytes are more than the maximum size of a buffer")
        if self._eager:
            self._reservations.check(size * count)
        try:
            for index in giving_way(range(count), 4):
                handle = heap.allocate(collection.vmo_name(index), size, writable=writable)
                try:
                    buffer = kind(index, size, heap, handle, collection, self._surroundings)
                except BaseException:
                    heap.delete(size)
                    raise
                collection.buffers.append(buffer)
        except BaseException as error:
            made = len(collection.buffers)
            collection.discard()
            if isinstance(error, (OSError, MemoryError)):
                raise NoMemoryError(f"buffer {made} of {count}, {size} bytes: {error}") from error
            raise

    def _register(self, collection: Buffers) -> None:
        for buffer in collection.buffers:
            if buffer.watch is not None:
                self._by_watch[buffer.watch] = buffer
            self._by_identity[buffer.identity] = collection, buffer

    def _is_contiguous(self, heap: sysmem2.AllocatedHeap) -> bool:
        found = self._heaps.get((heap.heap_type, heap.id))
        return found is not None and found.properties.contiguous

    def _heap(self, heap: sysmem2.AllocatedHeap) -> Heap:
        try:
            return self._heaps[heap.heap_type, heap.id]
        except KeyError:
            raise NoMemoryError(f"there is no heap {heap}") from None

    # --- recognition --------------------------------------------------------------------------------------------

    def identify(self, fd: int) -> HandleInfo | None:
        """Return the buffer that a descriptor belongs to; `None` if it is not a sysmem VMO. The caller keeps `fd`.

        While the caller keeps it open, it counts as the holder that it is.
        """
        self._read_watch()  # so that the inode number of a freed buffer is not mistaken for a new file's
        found = self._by_identity.get(vmo.identity(fd))
        return None if found is None else HandleInfo(*found, fd)

    def event(self, server_end: Handle, closed: Callable[[], None] = lambda: None) -> Event:
        """Return an event, for example for `track_lifetime`. Takes ownership of `server_end`, the server's end.

        `closed` is called once, after that end has been closed, even if this raises. Raises `OSError` if the kernel is
        out of memory for it.
        """
        return Event(server_end, self._hangups, closed)

    # --- events -------------------------------------------------------------------------------------------------

    def heaps(self) -> list[tuple[Heap, int]]:
        """Return all heaps, each with the number of its existing buffers."""
        counts = Counter(buffer.heap.properties for _, buffer in self._by_identity.values())
        return [(heap, counts[heap.properties]) for heap in self._heaps.values()]

    def statistics(self) -> MemoryStatistics:
        """Return a snapshot for inspection."""
        buffers: dict[str, int] = {}
        for _, buffer in self._by_identity.values():
            state = buffer.hold.name.lower()
            buffers[state] = buffers.get(state, 0) + 1
        return MemoryStatistics(
            heaps=tuple(
                HeapStatistics(
                    heap.properties.heap_type,
                    heap.properties.id,
                    heap.used_bytes,
                    heap.properties.max_bytes,
                )
                for heap in self._heaps.values()
            ),
            collections=len({id(collection) for collection, _ in self._by_identity.values()}),
            buffers=buffers,
        )

    def _refresh(self) -> None:
        """Process the watch's reports, or postpone this if they cannot be read now. Gives way between groups."""
        try:
            for _ in range(MAX_REPORTS // _REPORTS_AT_ONCE):  # others may cause more all the time
                if not self._read_watch(_REPORTS_AT_ONCE):
                    break
                give_way()
        except OSError as error:
            self._surroundings.log.error(
                "close events of buffers cannot be read now", reason=str(error)
            )

    def _read_reported(self) -> None:
        """Read the available reports."""
        self._fruitless = 0 if self._read_watch(_REPORTS_AT_ONCE) else self._fruitless + 1

    def _read_watch(self, most: int = MAX_REPORTS) -> bool:
        """Process the watch's reports, or about `most` of them. Return whether there were any.

        Raises `OSError`.
        """
        if self._closed:
            return False
        reports = self._watch.read(most)
        if not reports and not self._missed_some:
            return False
        self._take(reports)
        # After a close the server may release its buffer, which ends it.
        self._take(self._watch.read(most))
        return True

    def _take(self, reports: Reports) -> None:
        closings, ends = reports.closings, reports.ends
        if reports.overflow or self._missed_some:
            self._surroundings.log.warning(
                "the kernel dropped close events of buffers; checking every buffer",
                buffers=len(self._by_watch),
            )
            self._missed_some = True
            ends |= self._by_watch.keys() - self._watch.alive()
            self._missed_some = False
            self._groups.take(partial(self._look, watch) for watch in tuple(self._by_watch))
        every(partial(self._ended, watch) for watch in ends)
        every(partial(self._look, watch) for watch in closings)

    def _ended(self, watch: int) -> None:
        if buffer := self._by_watch.get(watch):
            buffer.end()

    def _look(self, watch: int) -> None:
        if buffer := self._by_watch.get(watch):
            buffer.look()

    def _forget(self, buffer: Buffer | OneFileBuffer) -> None:
        if buffer.watch is not None:
            del self._by_watch[buffer.watch]
        # By now the inode number may belong to another buffer: it is not reserved once the watch has ended.
        if self._by_identity[buffer.identity][1] is buffer:
            del self._by_identity[buffer.identity]
