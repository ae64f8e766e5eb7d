"""The buffers of one collection: handing them out, and the events that depend on all of them together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from sysmem_protocol.handles import Handle
from sysmem_protocol.sysmem2 import Rights, SingleBufferSettings
from sysmemd.ends import every
from sysmemd.pause import giving_way
from sysmemd.ports import NOBODY, ClientInfo, NoMemoryError, Payer, Signal

from .buffer import Buffer, Hold, Surroundings
from .locks import Kind
from .one_file import OneFileBuffer
from .signals import SignalSet

_READ: Final = int(Rights.READ)
_WRITE: Final = int(Rights.WRITE)
#: Of how many buffers the server lets go in a row.
_DROPPED_AT_ONCE: Final = 16


@dataclass(slots=True)
class DeliveredBuffer:
    """One buffer as a participant gets it; whoever has this owns both handles."""

    vmo: Handle | None = None
    close_weak_asap: Handle | None = None

    def close(self) -> None:
        """Close both; harmless for those given away."""
        for handle in (self.vmo, self.close_weak_asap):
            if handle is not None:
                handle.close()


def _nothing() -> None:
    """Nothing is to be said any more."""


class Buffers:
    """What one allocation made. It stays of use when its collection has failed, until the last buffer is gone."""

    def __init__(
        self,
        collection_id: int,
        name: str,
        settings: SingleBufferSettings,
        *,
        on_no_strong: Callable[[], None],
        surroundings: Surroundings,
    ) -> None:
        """Made by `Memory.allocate`, which adds the buffers."""
        self.collection_id = collection_id
        self.name = name
        self.settings = settings
        self.buffers: list[Buffer | OneFileBuffer] = []
        self._on_no_strong = on_no_strong
        self._cancel_no_strong: Callable[[], None] | None = None
        self._surroundings = surroundings
        self._when_gone: Callable[[], None] | None = None
        #: Whether the server was to stop being a strong holder, and whether it still is one, of all buffers.
        self._dropped = False
        self._is_holder = True
        self._cancel_dropping: Callable[[], None] | None = None
        self._promised = 0
        #: Of how many buffers the last strong handle is gone, and the memory.
        self._without_strong = 0
        self._gone = 0
        #: By the number of buffers at which they are signalled.
        self._trackers: dict[int, SignalSet] = {}

    def vmo_name(self, index: int) -> str:
        """Return what a buffer's memory is called where the system lists it."""
        return f"{self.name or 'sysmem'}:{index}"

    @property
    def count(self) -> int:
        """How many buffers were allocated."""
        return len(self.buffers)

    @property
    def existing(self) -> int:
        """How many of them still exist, as of the last event processed."""
        return len(self.buffers) - self._gone

    # --- handing out --------------------------------------------------------------------------------------------

    def hand_out(
        self,
        rights: int,
        *,
        weak: bool,
        client: ClientInfo,
        delivers_vmo: bool = True,
        payer: Payer = NOBODY,
    ) -> list[DeliveredBuffer]:
        """One entry a buffer, in order, for a participant to own.

        Each `vmo` is a new open file description: read-only when `rights` lack WRITE, un-set when they lack READ or
        `delivers_vmo` is false (a usage of plain NONE). For a `weak` participant each entry has its `close_weak_asap`;
        where no strong handle is left `vmo` is un-set and the event closed already, un-set too when the buffer is gone.
        `client` is named in the log should weak handles leak; `payer` pays for the daemon's ends of the events.

        Raises `NoMemoryError`, everything closed again, when the daemon is out of descriptors or the like.
        """
        delivers_vmo = delivers_vmo and bool(rights & _READ)
        writable = bool(rights & _WRITE)
        kind = Kind.WEAK if weak else Kind.STRONG
        self._look()
        delivered: list[DeliveredBuffer] = []
        try:
            for buffer in giving_way(self.buffers, 8):
                has_signal = weak and buffer.hold is not Hold.GONE
                signal = buffer.open_signal(payer) if has_signal else None
                entry = DeliveredBuffer(None, signal)
                delivered.append(entry)
                if delivers_vmo and buffer.has_strong():
                    entry.vmo = buffer.open(kind, client, writable=writable)
        except BaseException as error:
            for entry in delivered:
                entry.close()
            if isinstance(error, (OSError, MemoryError)):
                raise NoMemoryError(f"handles to {self.count} buffers: {error}") from error
            raise
        return delivered

    # --- strong and weak, lifetime --------------------------------------------------------------------------------

    def drop_strong(self) -> None:
        """The server is no strong holder of any of the buffers any more; nothing happens the second time.

        Where strong handles are promised (:meth:`promise_strong`) it is one until those are given.
        """
        self._dropped = True
        self._let_go()

    def promise_strong(self) -> Callable[[], None]:
        """Strong handles are going to be handed out: the server stays a strong holder until what is returned is called.

        To be called once, when they are given or won't be any more.
        """
        self._promised += 1
        return self._redeem

    def _redeem(self) -> None:
        self._promised -= 1
        self._let_go()

    def _let_go(self) -> None:
        if self._dropped and not self._promised and self._cancel_dropping is None:
            self._is_holder = False
            self._drop_some(0)

    def _drop_some(self, first: int) -> None:
        """Let go of some buffers, and of those after them when others have been served."""
        self._cancel_dropping = None
        end = first + _DROPPED_AT_ONCE
        if end < len(self.buffers):
            clock = self._surroundings.clock
            self._cancel_dropping = clock.call_at(clock.now(), partial(self._drop_some, end))
        every(buffer.drop_strong for buffer in self.buffers[first:end])

    def track_lifetime(self, event: Signal, buffers_remaining: int) -> None:
        """Close `event` as soon as at most `buffers_remaining` buffers exist, at once when it is so already.

        The event is owned from now on. One whose client end is closed is dropped before.
        """
        self._look()
        if self.existing <= buffers_remaining:
            event.close()
            return
        if buffers_remaining not in self._trackers:
            self._trackers[buffers_remaining] = SignalSet()
        self._trackers[buffers_remaining].add(event)

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when no buffer exists any more, at once if it is so already."""
        if self.existing:
            self._when_gone = callback
        else:
            callback()

    def discard(self) -> None:
        """Let go of the buffers made so far, because the allocation fails."""
        for buffer in self.buffers:
            buffer.discard()
        self.buffers = []

    def close(self) -> None:
        """Let go of everything: buffers, events, and the call that may be due. For the daemon's end."""
        for cancel in (self._cancel_no_strong, self._cancel_dropping):
            if cancel is not None:
                cancel()
        for buffer in self.buffers:
            buffer.close()
        self._gone = len(self.buffers)
        for trackers in self._trackers.values():
            trackers.signal()

    def _look(self) -> None:
        """Be as far as the kernel is, also where its report hasn't been read or was a moment early."""
        if self._is_holder:
            return  # nobody else matters
        for buffer in giving_way(self.buffers):
            buffer.look()
        self._surroundings.refresh()

    # --- what buffers tell ----------------------------------------------------------------------------------------

    def label(self) -> dict[str, object]:
        """Return the collection's id and name, for the log."""
        return {"collection_id": self.collection_id, "collection_name": self.name}

    def strong_handles_gone(self) -> None:
        """A buffer's last strong handle is gone; when it was so for all, say it, but not from within this call."""
        self._without_strong += 1
        if self._without_strong == len(self.buffers):
            clock = self._surroundings.clock
            self._cancel_no_strong = clock.call_at(clock.now(), self._say_no_strong)

    def buffer_gone(self) -> None:
        """A buffer's memory is reclaimed."""
        self._gone += 1
        existing = self.existing
        for remaining in [remaining for remaining in self._trackers if existing <= remaining]:
            self._trackers.pop(remaining).signal()
        if not existing and self._when_gone is not None:
            self._when_gone()

    def _say_no_strong(self) -> None:
        self._cancel_no_strong = None
        say, self._on_no_strong = self._on_no_strong, _nothing  # it is said once
        say()

    def __repr__(self) -> str:
        return f"<Buffers of {self.collection_id} {self.name!r}: {self.existing} of {self.count} exist>"
