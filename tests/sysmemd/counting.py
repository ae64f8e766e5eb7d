"""A daemon that counts its calls of Python functions: `python counting.py FILE ARGUMENT ...`.

At each SIGUSR1 it writes the number so far to FILE. If FILE is empty, it does not count, so that another tool can. Its
slices never end. Otherwise the number of checks for waiting clients would depend on how slow counting makes it.
"""

from __future__ import annotations

import itertools
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from sysmemd import turns
from sysmemd.__main__ import main

_HOUR_NS = 3600 * 10**9

_calls = itertools.count()


def _count(frame: FrameType, event: str, argument: object) -> None:
    if event == "call":
        next(_calls)


def _write(*_: object) -> None:
    path = Path(sys.argv[1])
    number = next(_calls)
    path.with_suffix(".new").write_text(str(number))
    os.replace(path.with_suffix(".new"), path)


if __name__ == "__main__":
    turns.SLICE_NS = turns.MAX_SLICE_NS = _HOUR_NS  # type: ignore[misc] # not constant here
    if sys.argv[1]:
        signal.signal(signal.SIGUSR1, _write)
        sys.setprofile(_count)
    sys.exit(main(sys.argv[2:]))
