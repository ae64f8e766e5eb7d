"""A runner: does work in slices, wherever in the middle of it a slice ends."""

from __future__ import annotations

from collections.abc import Callable

from greenlet import GreenletExit, getcurrent, greenlet

from . import pause
from .pause import Holder


class Runner:
    """Work that goes on from where it was when its last slice ended; a :class:`sysmemd.pause.Sliced`.

    It has a stack of its own, a greenlet's, so that the work is written like any other.
    """

    def __init__(
        self,
        work: Callable[[Runner], object],
        is_over: Callable[[Runner], bool],
        on_idle: Callable[[Runner], None],
    ) -> None:
        """`work` is called with this runner in its first slice; `is_over` returns whether its present slice is over.

        `on_idle` is called if the work waits for somebody (:meth:`wait_for`) and can go on.
        """
        self._greenlet = greenlet(work)
        self._is_over = is_over
        self._on_idle = on_idle
        #: Whether the work was interrupted, at :meth:`give_way` or :meth:`wait_for`, and not at :meth:`rest`.
        self.is_paused = False
        #: Whether the work waits for somebody.
        self.waits = False
        #: Whether what is done now is apart from the messages of channels.
        self.is_apart = False

    def go_on(self) -> None:
        """Do the work until it pauses, rests or ends. What it raises is raised here."""
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
        """Whether the work isn't over."""
        return not self._greenlet.dead

    def end(self) -> None:
        """Give up the work where it is: it is unwound. Idempotent."""
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
        """End this slice. Returns in the next one."""
        parent = self._greenlet.parent
        assert parent is not None
        parent.switch()

    def _idle(self) -> None:
        self.waits = False
        if self.is_paused:
            self._on_idle(self)
