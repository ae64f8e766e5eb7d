"""Whether this process writes a trace of its own messages: the variable `SYSMEM_TRACE` in its environment.

The variable is read once, when sysmem is imported. Without it no further module is loaded, and messages cost nothing.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._traced import TracedChannel

#: `1` writes to stderr, and a path appends to that file. Empty and `0` have the same effect as no variable.
VARIABLE: Final = "SYSMEM_TRACE"

#: The class for the channels of client ends; None without a trace.
traced: type[TracedChannel] | None = None

if os.environ.get(VARIABLE, "0") not in ("", "0"):
    from . import _traced

    traced = _traced.writing_to(os.environ[VARIABLE])
