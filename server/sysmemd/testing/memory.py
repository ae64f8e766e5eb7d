"""Memory that refuses allocations when a test requests it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..memory import Buffers, MemfdHeap, Memory
from .faults import Faults


class TestedMemory(Memory):
    """Memory with fault injection."""

    def __init__(self, *arguments: Any, faults: Faults, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._faults = faults
        faults.limit_heap = self.limit_heap

    def allocate(self, *, done: Callable[[Buffers | Exception], None], **named: Any) -> None:
        """See :meth:`Memory.allocate`."""
        refusal = self._faults.refusal()
        if refusal is not None:
            done(refusal)
        else:
            super().allocate(done=done, **named)

    def limit_heap(self, heap_type: str, max_bytes: int | None) -> None:
        """Change the size limit of a heap. Raises `KeyError` if it is not configured."""
        heap = self._heaps[heap_type, 0]
        assert isinstance(heap, MemfdHeap)
        heap.limit(max_bytes)
