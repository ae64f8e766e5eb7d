"""The buffers of one collection: their delivery, and the events that depend on all of them together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sysmem_protocol.handles import Handle
from sysmem_protocol.sysmem2 import Rights, SingleBufferSettings
from sysmemd.pause import giving_way
from sysmemd.ports import NOBODY, ClientInfo, NoMemoryError, Payer, Signal

from .buffer import Buffer, Hold, Surroundings
from .locks import Kind
from .one_file import OneFileBuffer
from .signals import SignalSet

_READ: Final = int(Rights.READ)
_WRITE: Final = int(Rights.WRITE)


@dataclass(slots=True)
class DeliveredBuffer:
    """One buffer as a participant receives it. Owns both handles."""

    vmo: Handle | None = None
    close_weak_asap: Handle | None = None

    def close(self) -> None:
        """Close both handles, unless they were taken."""
        for handle in (self.vmo, self.close_weak_asap):
            if handle is not None:
                handle.close()


def _nothing() -> None:
    """Do nothing, because there is nothing left to report."""


class Buffers:
    """The buffers of one allocation. It stays usable after its collection has failed, until the last buffer is gone."""

    def __init__(
        self,
        collection_id: int,
        name: str,
        settings: SingleBufferSettings,
        *,
        on_no_strong: Callable[[], None],
        surroundings: Surroundings,
    ) -> None:
        """Called by `Memory.allocate`, which adds the buffers."""
        self.collection_id = collection_id
        self.name = name
        self.settings = settings
        self.buffers: list[Buffer | OneFileBuffer] = []
        self._on_no_strong = on_no_strong
        self._cancel_no_strong: Callable[[], None] | None = None
        self._surroundings = surroundings
        self._when_gone: Callable[[], None] | None = None
        #: Whether the server must stop being a strong holder of all buffers, and whether it still is one.
        self._dropped = False
        self._is_holder = True
        self._promised = 0
        #: The number of buffers without a strong handle, and the number whose memory is gone.
        self._without_strong = 0
        self._gone = 0
        #: By the number of remaining buffers at which they are signalled.
        self._trackers: dict[int, SignalSet] = {}

    def vmo_name(self, index: int) -> str:
        """Return the name of a buffer's memory in the system's lists."""
        return f"{self.name or 'sysmem'}:{index}"

    @property
    def count(self) -> int:
        """The number of buffers that were allocated."""
        return len(self.buffers)

    @property
    def existing(self) -> int:
        """The number of buffers that still exist, as of the last processed event."""
        return len(self.buffers) - self._gone

    # --- delivery -----------------------------------------------------------------------------------------------

    def hand_out(
        self,
        rights: int,
        *,
        weak: bool,
        client: ClientInfo,
        delivers_vmo: bool = True,
        payer: Payer = NOBODY,
    ) -> list[DeliveredBuffer]:
        """Return one entry for each buffer, in order. The caller owns the entries.

        Each `vmo` is a new open file description: read-only if `rights` lack WRITE, un-set if they lack READ or
        `delivers_vmo` is false (a usage of only NONE). For a `weak` participant each entry has its `close_weak_asap`.
        If no strong handle is left, `vmo` is un-set and the event is already closed; if the buffer is gone, the event
        is un-set too. `client` is named in the log if weak handles leak. `payer` is charged for the daemon's ends of
        the events.

        Raises `NoMemoryError` if the daemon is out of descriptors or similar. All entries are closed then.
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
        """Stop being a strong holder of the buffers, as the server. Idempotent.

        If strong handles are promised (:meth:`promise_strong`), it stays one until they are delivered.
        """
        self._dropped = True
        self._let_go()

    def promise_strong(self) -> Callable[[], None]:
        """Announce strong handles. The server stays a strong holder until the returned function is called.

        It must be called once, when they are delivered or will not be any more.
        """
        self._promised += 1
        return self._redeem

    def _redeem(self) -> None:
        self._promised -= 1
        self._let_go()

    def _let_go(self) -> None:
        if self._dropped and not self._promised:
            self._is_holder = False
            self._surroundings.groups.take(buffer.drop_strong for buffer in self.buffers)

    def track_lifetime(self, event: Signal, buffers_remaining: int) -> None:
        """Close `event` when at most `buffers_remaining` buffers exist; immediately if that is already so.

        Takes ownership of the event. If its client end is closed before, it is dropped.
        """
        signals = SignalSet(self._surroundings.groups)
        trackers = self._trackers.setdefault(buffers_remaining, signals)
        trackers.add(event)  # first, because its client may close its end during the look
        self._look()
        if self.existing <= buffers_remaining:
            self._trackers.pop(buffers_remaining, None)
            trackers.signal()

    def when_gone(self, callback: Callable[[], None]) -> None:
        """Call `callback` once when no buffer exists any more; immediately if that is already so."""
        if self.existing:
            self._when_gone = callback
        else:
            callback()

    def discard(self) -> None:
        """Release the buffers created so far, because the allocation fails."""
        for buffer in self.buffers:
            buffer.discard()
        self.buffers = []

    def close(self) -> None:
        """Let go of everything: buffers, events, and the call that may be due. For the daemon's end."""
        if self._cancel_no_strong is not None:
            self._cancel_no_strong()
        for buffer in self.buffers:
            buffer.close()
        self._gone = len(self.buffers)
        for trackers in self._trackers.values():
            trackers.signal()

    def _look(self) -> None:
        """Catch up with the kernel, even if its report was not read yet or came a moment early."""
        if self._is_holder:
            return  # nobody else matters
        for buffer in giving_way(self.buffers):
            buffer.look()
        self._surroundings.refresh()

    # --- notifications of buffers ---------------------------------------------------------------------------------

    def label(self) -> dict[str, object]:
        """Return the collection's id and name, for the log."""
        return {"collection_id": self.collection_id, "collection_name": self.name}

    def strong_handles_gone(self) -> None:
        """Count a buffer without strong handles. After the last one, report it in a later call."""
        self._without_strong += 1
        if self._without_strong == len(self.buffers):
            clock = self._surroundings.clock
            self._cancel_no_strong = clock.call_at(clock.now(), self._say_no_strong)

    def buffer_gone(self) -> None:
        """Count a buffer whose memory is reclaimed."""
        self._gone += 1
        existing = self.existing
        for remaining in [remaining for remaining in self._trackers if existing <= remaining]:
            self._trackers.pop(remaining).signal()
        if not existing and self._when_gone is not None:
            self._when_gone()

    def _say_no_strong(self) -> None:
        self._cancel_no_strong = None
        say, self._on_no_strong = self._on_no_strong, _nothing  # it is reported only once
        say()

    def __repr__(self) -> str:
        return f"<Buffers of {self.collection_id} {self.name!r}: {self.existing} of {self.count} exist>"
