"""Allocating the pages of buffers in advance, for `allocation = "eager"`.

This takes the kernel 100 ms for 256 MiB. So it is done piece by piece: one piece in each turn of the loop, with all
reservations in rotation.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from sysmemd.ports import Clock, NoMemoryError

from . import available
from .buffer import Buffer
from .one_file import OneFileBuffer

#: The bytes of one piece, which takes about a millisecond.
PIECE_BYTES = 2 * 1024 * 1024
#: The bytes that are left to the daemon itself. If buffers took them, its next object would trigger the out-of-memory
#: killer.
KEPT_BYTES = 32 * 1024 * 1024


class Reservation:
    """The pages of one allocation."""

    def __init__(
        self, buffers: Sequence[Buffer | OneFileBuffer], is_wanted: Callable[[], bool]
    ) -> None:
        self.buffers = buffers
        #: The number of bytes that are not allocated yet.
        self.left = sum(buffer.size for buffer in buffers)
        self._is_wanted = is_wanted
        self._index = 0
        self._start = 0

    def step(self) -> None:
        """Allocate one more piece, perhaps of several buffers. Raises `NoMemoryError`, with earlier pieces kept."""
        if not self._is_wanted():
            raise NoMemoryError("the allocation is no longer wanted")
        room = min(PIECE_BYTES, self.left)
        check_available(room)
        while room:
            buffer = self.buffers[self._index]
            length = min(room, buffer.size - self._start)
            try:
                buffer.reserve(self._start, length)
            except OSError as error:
                raise NoMemoryError(
                    f"buffer {buffer.index} of {len(self.buffers)}, {buffer.size} bytes: {error}"
                ) from error
            room -= length
            self.left -= length
            self._start += length
            if self._start == buffer.size:
                self._index, self._start = self._index + 1, 0


class Reservations:
    """All running reservations."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._under_way: deque[tuple[Reservation, Callable[[Exception | None], None]]] = deque()
        self._cancel: Callable[[], None] | None = None

    def check(self, size: int) -> None:
        """Raise `NoMemoryError` if `size` bytes are not available in addition to the running reservations."""
        check_available(size, sum(reservation.left for reservation, _ in self._under_way))

    def reserve(
        self,
        buffers: Sequence[Buffer | OneFileBuffer],
        is_wanted: Callable[[], bool],
        done: Callable[[Exception | None], None],
    ) -> None:
        """Allocate the pages of `buffers`, and call `done`: before this returns, or later through the clock.

        `is_wanted` is called before each piece to find out whether to continue. After an error some pages are
        allocated.
        """
        self._advance(Reservation(buffers, is_wanted), done)

    def close(self) -> None:
        """Cancel all reservations without callbacks, and drop the buffers."""
        if self._cancel is not None:
            self._cancel()
        for reservation, _ in self._under_way:
            for buffer in reservation.buffers:
                buffer.close()

    def _advance(self, reservation: Reservation, done: Callable[[Exception | None], None]) -> None:
        try:
            reservation.step()
        except Exception as error:
            done(error)
            return
        if not reservation.left:
            done(None)
            return
        self._under_way.append((reservation, done))
        if self._cancel is None:
            self._cancel = self._clock.call_at(self._clock.now(), self._turn)

    def _turn(self) -> None:
        self._cancel = None
        if len(self._under_way) > 1:
            self._cancel = self._clock.call_at(self._clock.now(), self._turn)
        self._advance(*self._under_way.popleft())


def check_available(size: int, spoken_for: int = 0) -> None:
    """Raise `NoMemoryError` if the machine does not have `size` bytes in addition to those that are already promised.

    Asking the kernel for them might trigger the out-of-memory killer instead of failing.
    """
    left = max(0, available.memory_bytes() - KEPT_BYTES - spoken_for)
    if size > left:
        raise NoMemoryError(
            f"{size} bytes cannot be reserved, {left} are left besides {KEPT_BYTES} for the daemon"
        )
