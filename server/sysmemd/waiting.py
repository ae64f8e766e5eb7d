"""Serving in place of trio's wait, without waking a trio task for each event.

Waking a trio task takes some 30 Python function calls and a system call to wait again, which is more than most messages
take otherwise. So when no task can run, the daemon does not let trio wait. It waits itself, in an epoll instance that
also reports when trio has something to do, and serves ready users until then.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from time import monotonic, sleep
from typing import Any

import trio
from trio._core import _run

#: Called with the maximum time to wait for a user to serve, in seconds. Returns how many were served, and whether trio
#: is ready to continue.
Serve = Callable[[float], tuple[int, bool]]
#: How long to wait before trying again to wake trio, in seconds.
_AGAIN_SECONDS = 0.01


class _InPlaceOfWaiting(trio.abc.Instrument):
    """Serves before trio waits, for as long as trio would wait."""

    def __init__(self, runner: Any, serve: Serve, failed: Callable[[Exception], None]) -> None:
        self._runner = runner
        self._serve = serve
        self._failed = failed

    def before_io_wait(self, timeout: float) -> None:
        try:
            if not timeout:
                self._serve(0)
            elif not self._serve_for(timeout):
                self._wake_trio()
        except Exception as error:  # trio would remove the instrument
            self._say(error)
            self._wake_trio()

    def _say(self, error: Exception) -> None:
        with contextlib.suppress(Exception):  # there may be no memory for logging it
            self._failed(error)

    def _wake_trio(self) -> None:
        """Make trio check what has become due. Otherwise it would wait for the time that it computed before.

        This does not use `run_sync_soon`, because its task waits again each time, and the loop ends if the kernel has
        no memory for that. While the kernel has no memory for the wake-up either, users are served here.
        """
        while True:
            try:
                self._runner.io_manager.force_wakeup()
            except OSError:
                if self._is_trio_ready_soon():
                    return
            else:
                return

    def _is_trio_ready_soon(self) -> bool:
        """Serve for a moment. Return whether trio will not wait."""
        try:
            served, is_trio_ready = self._serve(_AGAIN_SECONDS)
        except Exception as error:
            self._say(error)
            sleep(_AGAIN_SECONDS)
            return False
        return is_trio_ready and not served

    def _serve_for(self, seconds: float) -> bool:
        """Serve until trio has something to do. Return whether trio finds that by itself."""
        runnable = self._runner.runq
        end = monotonic() + seconds
        left = seconds
        while left > 0:
            served, is_trio_ready = self._serve(left)
            if is_trio_ready:
                return not served  # after serving, the state may have changed
            if runnable:
                return False
            left = end - monotonic()
        return False


@contextlib.contextmanager
def in_place_of_waiting(serve: Serve, failed: Callable[[Exception], None]) -> Iterator[int]:
    """Call `serve` whenever trio would wait, within the block. `serve` must return once trio has something to do.

    Yields the descriptor that is readable in that case. `failed` is called with exceptions of `serve`.
    """
    runner: Any = _run.GLOBAL_RUN_CONTEXT.runner
    instrument = _InPlaceOfWaiting(runner, serve, failed)
    trio.lowlevel.add_instrument(instrument)
    try:
        yield runner.io_manager._epoll.fileno()
    finally:
        trio.lowlevel.remove_instrument(instrument)
