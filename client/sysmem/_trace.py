"""Whether this process writes a trace of its own messages: `SYSMEM_TRACE` in its environment.

It is looked at once, when sysmem is imported. Without it nothing more is loaded, and no message costs anything.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ._traced import TracedChannel

#: `1` writes to stderr, a path to the end of that file; empty or `0` is as un-set.
VARIABLE: Final = "SYSMEM_TRACE"

#: What client ends have as their channel instead of a plain one; None without a trace.
traced: type[TracedChannel] | None = None

if os.environ.get(VARIABLE, "0") not in ("", "0"):
    from . import _traced

    traced = _traced.writing_to(os.environ[VARIABLE])
