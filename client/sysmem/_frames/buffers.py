"""The buffers that frames are in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Self

from sysmem_protocol.sysmem2 import MAX_BUFFER_COUNT

from .._buffers import BufferCollectionInfo, VmoBuffer


class Buffers(NamedTuple):
    """What an end of a stream knows about the buffers."""

    #: The size of each buffer in bytes, or None if it is not known.
    sizes: list[int | None]
    #: The buffers themselves; empty when only their number is known.
    list: Sequence[VmoBuffer] = ()
    #: The collection's id; 0 if it is not known.
    collection_id: int = 0

    @classmethod
    def of(cls, given: BufferCollectionInfo | Sequence[VmoBuffer] | int) -> Self:
        """Return what is known about buffers that are given as a collection, as a list, or by their number alone.

        Raises:
            ValueError: No collection has that many buffers.
        """
        if isinstance(given, int):
            if not 1 <= given <= MAX_BUFFER_COUNT:
                raise ValueError(f"a collection has 1 to {MAX_BUFFER_COUNT} buffers, not {given}")
            return cls([None] * given)
        if isinstance(given, BufferCollectionInfo):
            memory = given.settings.buffer_settings
            size = None if memory is None else memory.size_bytes
            buffers = given.buffers
            return cls([size] * len(buffers), buffers, given.buffer_collection_id or 0)
        return cls([_size(buffer) for buffer in given], given)


def _size(buffer: VmoBuffer) -> int | None:
    return None if buffer.vmo is None else buffer.vmo.size - (buffer.vmo_usable_start or 0)
