"""Which handles to a buffer are left, asked of the kernel by means of locks that nobody waits for.

Every handle given to a client is an open file description of its own, and holds a read lock (F_OFD_SETLK) on one byte
far beyond the buffer's end. Such a lock belongs to the description: it survives dup, passing to other processes and
closing while mapped, and goes with the last descriptor *and* mapping. Strong handles have their bytes in one range,
weak ones in another, so one F_OFD_GETLK asked on the server's own description answers "is a strong handle left?", and
one asked on a handle which kind it is.

The server's own description holds a read lock on both ranges from the start, the guard. It never sees its own lock,
and nobody can put a write lock there, so no client can keep the server from giving a new handle its byte. Read locks
can be put anywhere by anybody: those on bytes not yet given to a handle are never asked for. What a client does to the
locks of its own descriptions (drop one, or hold another handle's byte too) makes that buffer's *signals* come early or
late, as if it had closed or kept a handle; memory goes with the last reference only, locks or not.
"""

from __future__ import annotations

import enum
import errno
import fcntl
import os
from collections.abc import Mapping

from sysmem_protocol.handles import FLOCK, holds_lock

#: Beyond the end of anything that can be allocated; `vmo.MAX_BYTES` is the same number.
FIRST_BYTE = 1 << 62
#: Bytes of each range: one a handle, never given twice, so enough for the life of any machine.
RANGE_BYTES = 1 << 60

#: As much of a description's list of locks as is read to find its handle byte; a client may hold many others.
_MAX_FDINFO_BYTES = 1 << 18


class Kind(enum.Enum):
    """Strong handles keep their buffer's contents; weak ones are to be closed when no strong one is left."""

    __hash__ = object.__hash__  # of an enum it is a function in Python

    STRONG = 0
    WEAK = 1

    def __init__(self, number: int) -> None:
        #: Where the range of the handles of this kind begins.
        self.first_byte = FIRST_BYTE + number * RANGE_BYTES


def guard(fd: int) -> None:
    """Keep everybody from putting write locks on either range, for as long as this description is open."""
    _set(fd, FIRST_BYTE, len(Kind) * RANGE_BYTES)


def mark(fd: int, kind: Kind, number: int) -> None:
    """Make a description (opened for reading at least) the handle `number` of its kind.

    Raises `OSError` when the kernel is out of memory for locks.
    """
    _set(fd, kind.first_byte + number, 1)


def any_left(own_fd: int, kind: Kind, count: int) -> bool:
    """Whether, seen from the server's own description, one of the handles 0 .. count - 1 of a kind is left."""
    # Length 0 would mean "to the end of the file".
    return count > 0 and _is_locked(own_fd, kind.first_byte, count)


def is_left(own_fd: int, kind: Kind, number: int) -> bool:
    """Return whether one certain handle is left."""
    return _is_locked(own_fd, kind.first_byte + number, 1)


def kinds_held(fd: int, given: Mapping[Kind, int]) -> set[Kind]:
    """Of which kinds a description is a handle, from its own locks; empty when it holds none.

    `given` is how many handles of each kind there have been; other bytes don't count.

    A description that was opened anew through /proc holds none, nor one whose owner dropped it. Raises `OSError` when
    the daemon is out of descriptors, on kernels before 6.6 only.
    """
    try:
        return {
            kind for kind in Kind if given[kind] and holds_lock(fd, kind.first_byte, given[kind])
        }
    except OSError as error:
        if error.errno == errno.EBADF:
            return set()  # O_PATH: such a one can't hold a lock
        if error.errno != errno.EINVAL:
            raise
    return _kinds_listed(fd, given)


def _kinds_listed(fd: int, given: Mapping[Kind, int]) -> set[Kind]:
    """What :func:`kinds_held` is, for kernels that can't be asked for a description's own locks.

    Each time the kernel writes out all that the description holds, so a client with very many locks makes this slow.
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
    # Asking as a writer would: read locks and write locks both stand in its way.
    query = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, start, length, 0)
    kind: int = FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_OFD_GETLK, query))[0]
    return kind != fcntl.F_UNLCK
