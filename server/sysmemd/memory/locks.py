"""Asks the kernel which handles to a buffer are left, by means of locks that no process waits for.

Every handle that is given to a client is an open file description of its own, and holds a read lock (F_OFD_SETLK) on
one byte far beyond the buffer's end. Such a lock belongs to the description: it survives dup, passing to other
processes and closing while mapped, and is released with the last descriptor *and* mapping. Strong handles have their
bytes in one range, weak ones in another. So one F_OFD_GETLK on the server's own description answers "is a strong handle
left?", and one on a handle answers which kind it is.

The server's own description holds a read lock on both ranges from the start, the guard. It never sees its own lock. No
process can put a write lock there, so no client can prevent the server from giving a new handle its byte. Any process
can put read locks anywhere, but the daemon never queries bytes that it has not assigned to a handle. If a client
changes the locks of its own descriptions (drops one, or locks another handle's byte), that buffer's *signals* come
early or late, as if it had closed or kept a handle. The memory itself is freed with the last reference, whatever the
locks.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
from collections.abc import Mapping

from sysmem_protocol.handles import FLOCK, holds_lock

#: Beyond the end of any possible allocation; the same number as `vmo.MAX_BYTES`.
FIRST_BYTE = 1 << 62
#: The number of bytes in each range: one for each handle, never reused, which is enough for the life of any machine.
RANGE_BYTES = 1 << 60

#: How much of a description's list of locks is read to find its handle byte. A client may hold many others.
_MAX_FDINFO_BYTES = 1 << 18


class Kind(enum.Enum):
    """The kind of a handle. Strong ones keep the buffer's contents; weak ones must be closed after the last strong."""

    __hash__ = object.__hash__  # the enum's own is a slow function in Python

    STRONG = 0
    WEAK = 1

    def __init__(self, number: int) -> None:
        #: The beginning of the range for handles of this kind.
        self.first_byte = FIRST_BYTE + number * RANGE_BYTES


def guard(fd: int) -> None:
    """Prevent write locks on both ranges, as long as this description is open."""
    _set(fd, FIRST_BYTE, len(Kind) * RANGE_BYTES)


def mark(fd: int, kind: Kind, number: int) -> None:
    """Mark a description (opened at least for reading) as the handle `number` of its kind.

    Raises `OSError` if the kernel is out of memory for locks.
    """
    _set(fd, kind.first_byte + number, 1)


def any_left(own_fd: int, kind: Kind, count: int) -> bool:
    """Return whether one of the handles 0 .. count - 1 of a kind is left, seen from the server's own description."""
    # Length 0 would mean "to the end of the file".
    return count > 0 and _is_locked(own_fd, kind.first_byte, count)


def is_left(own_fd: int, kind: Kind, number: int) -> bool:
    """Return whether this handle is left."""
    return _is_locked(own_fd, kind.first_byte + number, 1)


def kinds_held(fd: int, given: Mapping[Kind, int]) -> set[Kind]:
    """Return the kinds of which a description is a handle, from its own locks; empty if it holds none.

    `given` is the number of handles of each kind so far; other bytes do not count.

    A description that was reopened through /proc holds no lock, and neither does one whose owner dropped it. Raises
    `OSError` if the daemon is out of descriptors, only on kernels before 6.6.
    """
    try:
        return {
            kind for kind in Kind if given[kind] and holds_lock(fd, kind.first_byte, given[kind])
        }
    except OSError as error:
        if error.errno == errno.EBADF:
            return set()  # an O_PATH description cannot hold a lock
        if error.errno != errno.EINVAL:
            raise
    return _kinds_listed(fd, given)


def _kinds_listed(fd: int, given: Mapping[Kind, int]) -> set[Kind]:
    """Return what :func:`kinds_held` returns, on kernels that cannot be asked for a description's own locks.

    Each time the kernel lists all locks of the description, so a client with very many locks makes this slow.
    """
    with open(f"/proc/self/fdinfo/{fd}", "rb", buffering=0) as fdinfo:
        lines = fdinfo.read(_MAX_FDINFO_BYTES).splitlines()
    kinds: set[Kind] = set()
    for line in lines:
        # lock:\t1: OFDLCK ADVISORY  READ -1 00:01:1026 4611686018427387909 4611686018427387909
        words = line.split()
        if len(words) == 9 and words[0] == b"lock:" and words[2] == b"OFDLCK":
            first = int(words[7])
            last = FIRST_BYTE * 2 if words[8] == b"EOF" else int(words[8])
            kinds.update(
                kind
                for kind in Kind
                if first < kind.first_byte + given[kind] and last >= kind.first_byte
            )
    return kinds


def _set(fd: int, start: int, length: int) -> None:
    lock = FLOCK.pack(fcntl.F_RDLCK, os.SEEK_SET, start, length, 0)
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)


def _is_locked(fd: int, start: int, length: int) -> bool:
    # Ask as a writer, because both read locks and write locks conflict with it.
    query = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind: int = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query))[0]
    return kind != fcntl.F_UNLCK
