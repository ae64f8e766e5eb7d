"""Work that is interrupted at the places that a test chooses, and a measure of the time between such places."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

from sysmemd import pause
from sysmemd.pause import Holder
from sysmemd.runner import Runner
from sysmemd.tree.choose import Chosen, NoneChosen, Question


class SlowWork:
    """Does work until its first :meth:`pause`, and the rest on demand."""

    def __init__(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Start without work.

        `is_over` decides at each place where work gives way whether it is interrupted there too.
        """
        self._is_over = is_over
        self._paused: deque[Runner] = deque()

    @property
    def pending(self) -> int:
        """The number of interrupted pieces of work."""
        return len(self._paused)

    def do(self, work: Callable[[], object]) -> None:
        """Do work until it pauses."""
        self._go_on(Runner(lambda _: work(), lambda _: self._is_over(), self._paused.append))

    def slow_down(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let allocation attempts pause before and after their computation."""
        answer = Question.answer

        def paused(question: Question) -> Chosen | NoneChosen | Exception:
            self.pause()
            found = answer(question)
            self.pause()
            return found

        monkeypatch.setattr(Question, "answer", paused)

    def pause(self) -> None:
        """Pause the work that :meth:`do` executes. Outside of such work, do nothing."""
        runner: Any = pause.current
        if runner is not None:
            runner.is_paused = True
            runner.rest()

    def go_on(self, place: int = 0) -> None:
        """Continue work until it pauses again or ends. The oldest is at index 0."""
        runner = self._paused[place]
        del self._paused[place]
        self._go_on(runner)

    def finish(self) -> None:
        """Continue the oldest attempt until it ends; see :meth:`slow_down`."""
        self.go_on()
        self.go_on()

    def _go_on(self, runner: Runner) -> None:
        runner.go_on()
        if runner.is_paused and not runner.waits:
            self._paused.append(runner)


class Stretches:
    """Does work, and finds the longest stretch in which it does not give way.

    A stretch is measured in calls of Python and built-in functions, so the measure is the same on every machine.
    """

    def __init__(self) -> None:
        self.longest = 0
        #: The total number of calls.
        self.total = 0
        self._calls = 0

    def do(self, work: Callable[[], object]) -> None:
        """Do work from its start to its end."""
        before, pause.current = pause.current, self
        profile = sys.getprofile()
        self._calls = 0
        sys.setprofile(self._count)
        try:
            work()
        finally:
            sys.setprofile(profile)
            pause.current = before
        self.give_way()

    def give_way(self) -> None:
        """Begin a new stretch; see :class:`sysmemd.pause.Sliced`."""
        self.longest = max(self.longest, self._calls)
        self.total += self._calls
        self._calls = 0

    def wait_for(self, holder: Holder) -> None:
        """Return at once, because all work is done at once; see :class:`sysmemd.pause.Sliced`."""
        raise AssertionError(f"{holder!r} is held")

    def _count(self, frame: FrameType, event: str, argument: object) -> None:
        self._calls += event in ("call", "c_call")
