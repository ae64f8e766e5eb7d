"""Memory: heaps, VMOs with rights, and their holders.

The package does not depend on nodes or channels. Its only event source is a descriptor to wait for
(:meth:`Memory.fileno`). The modules in the order of a buffer's life: :mod:`.heaps` creates the memory, :mod:`.vmo`
seals it and opens handles, :mod:`.reserve` allocates the pages in advance if required, :mod:`.locks` marks each handle
so that the kernel can be asked about it, :mod:`.watch` reports events, :mod:`.buffer` is the state of one buffer,
:mod:`.collection` that of an allocation's buffers together, :mod:`.reclaim` frees the memory, :mod:`.store` contains
all of them. :mod:`.dma_heap` and :mod:`.one_file` are the equivalents for dma-bufs, whose handles are all one open
file.
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
