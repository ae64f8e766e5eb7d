"""Mappings without a descriptor. `mmap.mmap` keeps a duplicate of the descriptor as long as it lives."""

from __future__ import annotations

import ctypes
import mmap
import os

from .closes import ClosesWithBlock

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_LIBC.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MAP_FAILED = ctypes.c_void_p(-1).value


class BareMapping(ClosesWithBlock):
    """Shared memory that only this mapping keeps alive, until `close`. Slices are copies."""

    def __init__(self, fd: int, size: int | None = None, *, write: bool = True) -> None:
        self._size = os.fstat(fd).st_size if size is None else size
        access = mmap.PROT_READ | (mmap.PROT_WRITE if write else 0)
        self._address = _LIBC.mmap(None, self._size, access, mmap.MAP_SHARED, fd, 0)
        if self._address == _MAP_FAILED:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        memory = (ctypes.c_ubyte * self._size).from_address(self._address)
        view = memoryview(memory).cast("B")
        self._view = view if write else view.toreadonly()

    def __getitem__(self, part: slice) -> bytes:
        return bytes(self._view[part])

    def __setitem__(self, part: slice, content: bytes) -> None:
        self._view[part] = content

    def __bytes__(self) -> bytes:
        return bytes(self._view)

    def close(self) -> None:
        """Unmap. Idempotent. Later accesses raise `ValueError`."""
        if self._address is None:
            return
        self._view.release()
        address, self._address = self._address, None
        assert _LIBC.munmap(address, self._size) == 0
