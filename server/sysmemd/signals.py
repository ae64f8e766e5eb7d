"""Signals of the process, received through a descriptor that is readable when one has arrived.

Trio's own way of receiving them waits in a system task, which ends the loop if the kernel has no memory for the wait. A
task that waits for this descriptor can continue in that case.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection, Iterator, Set

#: The maximum number of signals that are taken at a time.
_MAX_SIGNALS = 64


@contextlib.contextmanager
def received(numbers: Collection[signal.Signals]) -> Iterator[Received]:
    """Receive these signals within the block. Must be called in the main thread.

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
        """Read them from `fd`, which the caller keeps. Signals with other numbers are ignored."""
        self._fd = fd
        self._numbers = numbers

    def fileno(self) -> int:
        """Return a descriptor that is readable when there are signals to take."""
        return self._fd

    def take(self) -> list[signal.Signals]:
        """Return the signals since the last call, in order. Never blocks.

        Raises `OSError` if they cannot be read; they are not lost.
        """
        with contextlib.suppress(BlockingIOError):
            came = os.read(self._fd, _MAX_SIGNALS)
            return [signal.Signals(number) for number in came if number in self._numbers]
        return []


def _is_received(number: int, frame: object) -> None:
    """Do nothing: the interpreter has already written the number."""
