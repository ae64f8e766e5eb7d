"""A runner: executes work in slices, which may end at any pause in the work."""

from __future__ import annotations

from collections.abc import Callable

from greenlet import GreenletExit, getcurrent, greenlet

from . import pause
from .pause import Holder


class Runner:
    """Work that continues where its last slice ended; a :class:`sysmemd.pause.Sliced`.

    It has a stack of its own, a greenlet's, so the work is written as ordinary code.
    """

    def __init__(
        self,
        work: Callable[[Runner], object],
        is_over: Callable[[Runner], bool],
        on_idle: Callable[[Runner], None],
    ) -> None:
        """`work` is called with this runner in its first slice. `is_over` returns whether the current slice is over.

        `on_idle` is called when the work has waited for a holder (:meth:`wait_for`) and can continue.
        """
        self._greenlet = greenlet(work)
        self._is_over = is_over
        self._on_idle = on_idle
        #: Whether the work was interrupted by :meth:`give_way` or :meth:`wait_for`, not by :meth:`rest`.
        self.is_paused = False
        #: Whether the work waits for a holder.
        self.waits = False
        #: Whether the current work is not part of processing a channel's message.
        self.is_apart = False

    def go_on(self) -> None:
        """Run the work until it pauses, rests or ends. Its exceptions are raised here."""
        self.is_paused = False
        before, pause.current = pause.current, self
        try:
            self._greenlet.parent = getcurrent()
            if self._greenlet:
                self._greenlet.switch()
            else:
                self._greenlet.switch(self)
        finally:
            pause.current = before

    @property
    def is_alive(self) -> bool:
        """Whether the work has not ended."""
        return not self._greenlet.dead

    def end(self) -> None:
        """Abandon the work at its current point, and unwind its stack. Idempotent."""
        self._greenlet.parent = getcurrent()
        self._greenlet.throw(GreenletExit)

    # --- for the work ---------------------------------------------------------------------------------------------

    def give_way(self) -> None:
        """See :class:`sysmemd.pause.Sliced`."""
        if self._is_over(self):
            self.is_paused = True
            self.rest()

    def wait_for(self, holder: Holder) -> None:
        """See :class:`sysmemd.pause.Sliced`."""
        self.waits = True
        holder.when_idle(self._idle)
        while self.waits:
            self.is_paused = True
            self.rest()

    def rest(self) -> None:
        """End this slice. Return in the next one."""
        parent = self._greenlet.parent
        assert parent is not None
        parent.switch()

    def _idle(self) -> None:
        self.waits = False
        if self.is_paused:
            self._on_idle(self)
