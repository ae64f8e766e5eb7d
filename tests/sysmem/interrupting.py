"""Doing something between any two instructions of our code, as a signal's handler may, which doesn't raise.

For one that raises see :mod:`.places`.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import sysmem
import sysmem_protocol

_OURS = tuple(str(Path(str(package.__file__)).parent) for package in (sysmem, sysmem_protocol))


class AtInstruction:
    """Within the with-block, do something before the instruction of our code with this number is executed."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.done = False
        self._left = number
        self._act = act

    def __enter__(self) -> AtInstruction:
        sys._getframe().f_trace_opcodes = (
            True  # Python 3.12 looks for one such frame when tracing begins
        )
        sys.settrace(self._call)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _call(self, frame: FrameType, event: str, argument: Any) -> Any:
        if self.done or not frame.f_code.co_filename.startswith(_OURS):
            return None
        frame.f_trace = self._instruction  # Python 3.13 wants it before the next line
        frame.f_trace_opcodes = True
        frame.f_trace_lines = False
        return self._instruction

    def _instruction(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "opcode" and not self.done:
            self._left -= 1
            if self._left < 0:
                self.done = True
                self._act()
        return self._instruction


def at_every_instruction(act: Callable[[], None]) -> Iterator[AtInstruction]:
    """For each instruction of what is done in the with-block: a with-block that does `act` before it, and that twice.

    Ends when there was no such instruction any more.
    """
    for number in itertools.count():
        at = AtInstruction(number, act)
        yield at
        if not at.done:
            return
