"""Memory: heaps, VMOs with rights, and who still holds what.

Stands alone: it knows neither nodes nor channels, and its one event source is a descriptor to wait on
(:meth:`Memory.fileno`). Follow a buffer through it: :mod:`.heaps` makes the memory, :mod:`.vmo` seals it and opens
handles, :mod:`.reserve` takes the pages if they are wanted at once, :mod:`.locks` marks each handle so that the kernel
can be asked for it, :mod:`.watch` brings the wake-ups, :mod:`.buffer` is the life of one buffer, :mod:`.collection`
that of an allocation's buffers together, :mod:`.reclaim` gives the memory back, :mod:`.store` has them all.
:mod:`.dma_heap` and :mod:`.one_file` are the same for dma-bufs, of which all handles are one open file.
"""

from .buffer import LEAK_NS, Buffer, Hold
from .collection import Buffers, DeliveredBuffer
from .dma_heap import DmaHeap
from .handle_info import HandleInfo, NoMoreStrongHandlesError
from .heaps import SYSTEM_RAM, Heap, HeapSettings, MemfdHeap
from .one_file import OneFileBuffer
from .requirements import examine_kernel
from .signals import Event
from .store import HeapStatistics, Memory, MemoryStatistics
from .vmo import attenuation_is_advisory, dma_buf_users

__all__ = [
    "LEAK_NS",
    "SYSTEM_RAM",
    "Buffer",
    "Buffers",
    "DeliveredBuffer",
    "DmaHeap",
    "Event",
    "HandleInfo",
    "Heap",
    "HeapSettings",
    "HeapStatistics",
    "Hold",
    "MemfdHeap",
    "Memory",
    "MemoryStatistics",
    "NoMoreStrongHandlesError",
    "OneFileBuffer",
    "attenuation_is_advisory",
    "dma_buf_users",
    "examine_kernel",
]
