"""Taking the pages of buffers when they are allocated, for `allocation = "eager"`.

That takes the kernel 100 ms for 256 MiB. So it is done piece by piece: each time the loop comes round one piece of one
allocation, of all of them in turn.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from sysmemd.ports import Clock, NoMemoryError

from . import available
from .buffer import Buffer
from .one_file import OneFileBuffer

#: Bytes that are taken in a row, in about a millisecond.
PIECE_BYTES = 2 * 1024 * 1024


class Reservation:
    """The pages of one allocation."""

    def __init__(
        self, buffers: Sequence[Buffer | OneFileBuffer], is_wanted: Callable[[], bool]
    ) -> None:
        self.buffers = buffers
        #: Bytes that are still to be taken.
        self.left = sum(buffer.size for buffer in buffers)
        self._is_wanted = is_wanted
        self._index = 0
        self._start = 0

    def step(self) -> None:
        """Take one more piece, perhaps of several buffers. Raises `NoMemoryError`, with the pieces before kept."""
        if not self._is_wanted():
            raise NoMemoryError("nobody wants them any more")
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
    """All reservations that are under way."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._under_way: deque[tuple[Reservation, Callable[[Exception | None], None]]] = deque()
        self._cancel: Callable[[], None] | None = None

    def check(self, size: int) -> None:
        """Raise `NoMemoryError` when `size` bytes more than what is under way can't be had."""
        check_available(size, sum(reservation.left for reservation, _ in self._under_way))

    def reserve(
        self,
        buffers: Sequence[Buffer | OneFileBuffer],
        is_wanted: Callable[[], bool],
        done: Callable[[Exception | None], None],
    ) -> None:
        """Take the pages of `buffers`, and call `done`: before this returns, or later through the clock.

        `is_wanted` is asked before each piece whether to go on. On an error some pages have been taken.
        """
        self._advance(Reservation(buffers, is_wanted), done)

    def close(self) -> None:
        """Give up, let go of the buffers, and call nobody back any more."""
        if self._cancel is not None:
            self._cancel()
        for reservation, _ in self._under_way:
            for buffer in reservation.buffers:
                buffer.close()
        self._under_way.clear()

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
    """Raise `NoMemoryError` when the machine hasn't `size` bytes left beside those that are spoken for.

    Asking the kernel could set the out-of-memory killer on somebody instead of failing.
    """
    left = max(0, available.memory_bytes() - spoken_for)
    if size > left:
        raise NoMemoryError(f"{size} bytes can't be reserved, {left} are left")
