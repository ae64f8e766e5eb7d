"""The blocking face of the client: plain calls, from any number of threads.

::

    from sysmem import blocking

    with blocking.connect() as allocator:
        token = allocator.allocate_shared_collection()
        ...  # pass duplicates of it to other processes
        token.release()

Names and arguments are those of the async face, :mod:`sysmem`. Tables, enums, errors and handles are the same classes.
Every call takes a `timeout` in seconds and raises `TimeoutError` after it. The object stays usable, and the call's late
response is dropped. An interruption by `KeyboardInterrupt` or another exception has the same effect.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._blocking.allocator import Allocator, connect
from .._blocking.events import BlockingEventPair as EventPair
from .._blocking.nodes import (
    BufferCollection,
    BufferCollectionToken,
    BufferCollectionTokenGroup,
    Node,
)

__all__ = [
    "Allocator",
    "BufferCollection",
    "BufferCollectionToken",
    "BufferCollectionTokenGroup",
    "EventPair",
    "Node",
    "connect",
    "frames",
]

if TYPE_CHECKING:
    from . import frames as frames
else:

    def __getattr__(name):
        """Import `frames` on demand, because not every program needs it."""
        if name != "frames":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        return import_module(f"{__name__}.frames")
