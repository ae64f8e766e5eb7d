"""Signals of the process, as a descriptor that is readable when one has come.

Trio's own way of receiving them waits in a task of trio's, which ends the loop when the kernel has no memory for that
wait. Whoever waits for this descriptor can go on instead.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterator, Set

#: As many signals as are taken at a time.
_MAX_SIGNALS = 64


@contextlib.contextmanager
def received(numbers: Collection[signal.Signals]) -> Iterator[Received]:
    """Receive these signals within the block, which must be in the main thread.

    Raises `OSError` if the process has no descriptor left.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        before = {number: signal.signal(number, _is_received) for number in numbers}
        # The interpreter writes a byte with the number of each signal, whichever thread gets it.
        wakes = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
        try:
            yield Received(reading, frozenset(numbers))
        finally:
            signal.set_wakeup_fd(wakes, warn_on_full_buffer=False)
            for number, handler in before.items():
                signal.signal(number, handler)
    finally:
        os.close(reading)
        os.close(writing)


class Received:
    """Signals that were received."""

    def __init__(self, fd: int, numbers: Set[int]) -> None:
        """Read them from `fd`, which stays the caller's. Signals with other numbers are somebody else's."""
        self._fd = fd
        self._numbers = numbers

    def fileno(self) -> int:
        """Readable when there are signals to take."""
        return self._fd

    def take(self) -> list[signal.Signals]:
        """Return what has come since the last time, in order; never blocks.

        Raises `OSError` when they can't be read; they are still there then.
        """
        with contextlib.suppress(BlockingIOError):
            came = os.read(self._fd, _MAX_SIGNALS)
            return [signal.Signals(number) for number in came if number in self._numbers]
        return []


def _is_received(number: int, frame: object) -> None:
    """Nothing to do: the interpreter has written the number already."""
