"""Agree with other processes on one set of shared memory buffers: the client of sysmem, async under trio or asyncio.

::

    import sysmem

    async with sysmem.connect() as allocator:
        token = await allocator.allocate_shared_collection()
        collection = await allocator.bind_shared_collection(token)
        await collection.set_constraints(sysmem.constraints("NV12 640x480", cpu="write", hold=1))
        with await collection.wait_for_all_buffers_allocated() as info:
            with info.buffers[0].map() as view:
                ...
        await collection.release()

:mod:`sysmem.blocking` has the same names as plain blocking calls; tables, enums, errors and handles are the ones from
here.

Every call takes a `timeout` in seconds and raises `TimeoutError` after it. A timeout or a cancellation leaves the
object usable: a request that was sent takes effect, and its late response is dropped with all descriptors in it. An
object belongs to the event loop of the tasks that wait on it and must not be used from several threads; objects of the
blocking face may. `close()` does no I/O and is not awaited.

Every object with a `fileno()` owns a descriptor, and cannot be copied or pickled. multiprocessing (spawn, forkserver,
pipes, queues, pools) passes duplicates of VMOs, buffers, infos and node refs. It moves tokens, collections, groups and
events: afterwards they are closed here, as after `detach()`. An object in a pipe or queue stays alive in the sending
process until the receiver has unpickled it. `multiprocessing.Queue.put()` returns before it has pickled the object, so
do not use the object again until the receiver has it. Channels and events belong to the process that created them: in a
forked child they are closed, and nothing that the child does affects the parent's. `close()` never waits, and may be
called by a signal handler during any call. An object that is garbage-collected without `close()` is closed with a
ResourceWarning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sysmem_protocol import __version__
from sysmem_protocol.image_format import ImageFormat, RectU
from sysmem_protocol.images2 import ColorSpace, PixelFormat, PixelFormatModifier
from sysmem_protocol.sysmem2 import (
    SYSTEM_RAM_HEAP,
    AllocatedHeap,
    BufferCollectionConstraints,
    BufferMemoryConstraints,
    BufferMemorySettings,
    BufferUsage,
    CoherencyDomain,
    CpuUsage,
    DisplayUsage,
    Error,
    Heap,
    ImageFormatConstraints,
    ImageFormatSettings,
    NoneUsage,
    PixelFormatAndModifier,
    Rights,
    SingleBufferSettings,
    SizeU,
    VideoUsage,
    VulkanUsage,
)

from ._errors import DaemonUnavailableError, HandleClosedError, PeerClosedError, SysmemError
from ._handles import EventPair
from ._vmo import Mapping

__all__ = [
    "SYSTEM_RAM_HEAP",
    "AllocatedHeap",
    "Allocator",
    "AsyncEventPair",
    "BufferCollection",
    "BufferCollectionConstraints",
    "BufferCollectionInfo",
    "BufferCollectionToken",
    "BufferCollectionTokenGroup",
    "BufferMemoryConstraints",
    "BufferMemorySettings",
    "BufferUsage",
    "CoherencyDomain",
    "ColorSpace",
    "CpuUsage",
    "DaemonUnavailableError",
    "DisplayUsage",
    "DmaBuf",
    "Error",
    "EventPair",
    "HandleClosedError",
    "Heap",
    "ImageFormat",
    "ImageFormatConstraints",
    "ImageFormatSettings",
    "Mapping",
    "Node",
    "NodeRef",
    "NoneUsage",
    "PeerClosedError",
    "PixelFormat",
    "PixelFormatAndModifier",
    "PixelFormatModifier",
    "RectU",
    "Rights",
    "SingleBufferSettings",
    "SizeU",
    "SysmemError",
    "VideoUsage",
    "Vmo",
    "VmoBuffer",
    "VmoInfo",
    "VulkanUsage",
    "__version__",
    "connect",
    "constraints",
    "formats",
    "frames",
]

if TYPE_CHECKING:
    from . import blocking as blocking
    from . import formats as formats
    from . import frames as frames
    from ._async.allocator import Allocator, connect
    from ._async.events import AsyncEventPair
    from ._async.nodes import (
        BufferCollection,
        BufferCollectionToken,
        BufferCollectionTokenGroup,
        Node,
    )
    from ._buffers import BufferCollectionInfo, VmoBuffer, VmoInfo
    from ._dma_buf import DmaBuf
    from ._handles import NodeRef
    from ._plain import constraints
    from ._vmo import Vmo
else:
    #: The modules of names that not every program needs, such as the other face. They are imported on demand.
    _LATER = {
        **dict.fromkeys(("blocking", "formats", "frames"), ""),
        **dict.fromkeys(("Allocator", "connect"), "_async.allocator"),
        "AsyncEventPair": "_async.events",
        "BufferCollection": "_async.nodes",
        "BufferCollectionToken": "_async.nodes",
        "BufferCollectionTokenGroup": "_async.nodes",
        "Node": "_async.nodes",
        "DmaBuf": "_dma_buf",
        "constraints": "_plain",
        # These are found in the module that defines how multiprocessing passes them.
        **dict.fromkeys(
            ("BufferCollectionInfo", "NodeRef", "Vmo", "VmoBuffer", "VmoInfo"), "_sharing"
        ),
    }

    def __getattr__(name):
        """Import a name on demand."""
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib import import_module

        module = import_module(f"{__name__}.{_LATER[name] or name}")
        found = globals()[name] = getattr(module, name) if _LATER[name] else module
        return found

    def __dir__():
        """Return all names, including those that are not imported yet."""
        return sorted({*globals(), *_LATER})
