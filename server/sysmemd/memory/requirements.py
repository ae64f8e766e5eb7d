"""The requirements and assumptions about the kernel, tested at start in a few milliseconds."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from functools import cached_property
from typing import NamedTuple

from sysmem_protocol.handles import Handle, channel_pair, descriptors_waiting, holds_lock, unread_of
from sysmem_protocol.kinds import status

from . import locks, vmo
from .locks import Kind
from .watch import InodeWatch

_PROC = ("/proc/self/fd", "/proc/self/fdinfo")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_libc.mmap.restype = ctypes.c_void_p
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
#: From asm-generic/socket.h and linux/fcntl.h; Python has no names for them.
_SO_PEERGROUPS = 59
_F_SEAL_EXEC = 0x0020
_MAP_FAILED = ctypes.c_void_p(-1).value


class Findings(NamedTuple):
    """Problems with the kernel, one sentence each; usually none."""

    #: Missing features that the daemon requires.
    missing: list[str]
    #: Behaviour that differs from the daemon's assumptions, with the consequence. The daemon can serve nevertheless.
    differences: list[str]


class _Bench:
    """Objects that the tests share, because closing an inotify instance takes most of the time of all tests."""

    def __init__(self, undo: ExitStack) -> None:
        self._undo = undo

    @cached_property
    def watch(self) -> InodeWatch:
        return self._undo.enter_context(closing(InodeWatch()))


_Attempt = Callable[[_Bench], None]


def examine_kernel() -> Findings:
    """Test the daemon's requirements and assumptions about the kernel. Nothing stays open.

    Without /proc nothing else can be tested. Assumptions are only tested if nothing is missing.
    """
    needed: tuple[tuple[str, _Attempt], ...] = (
        ("/proc must be mounted: the daemon creates and recognises handles through it", _try_proc),
        ("memfd_create with sealing is needed for the memory of buffers", _try_memfd),
        ("F_OFD_SETLK locks are needed to determine who holds a buffer", _try_locks),
        ("inotify is needed to notice that a buffer is no longer held", _try_inotify),
        (
            "Linux 5.6 is needed to find out what is queued in a socket before it is closed",
            _try_sockets,
        ),
    )
    expected: tuple[tuple[str, _Attempt], ...] = (
        (
            "the kernel does not report closed buffer handles: events are signalled late or never",
            _try_closings,
        ),
        (
            "a handle's lock is released before its mapping: events are signalled early",
            _try_mapping,
        ),
        (
            "the locks of one open file description can't be queried, as is possible since Linux 6.6: GetVmoInfo reads "
            "all of them, and channels are closed in threads",
            _try_own_locks,
        ),
        ("buffers can be made executable, which is prevented since Linux 6.3", _try_noexec),
        (
            "the kernel does not report what is queued in a socket: clients may keep others open",
            _try_waiting,
        ),
        (
            "the kernel does not report what a descriptor refers to: buffers are not recognised",
            _try_status,
        ),
        (
            "the kernel does not report the groups of a client: [access] allow_groups admits nobody",
            _try_groups,
        ),
    )
    with ExitStack() as undo:
        bench = _Bench(undo)
        missing = _failing(needed, bench)
        return Findings(missing, [] if missing else _failing(expected, bench))


def _failing(attempts: tuple[tuple[str, _Attempt], ...], bench: _Bench) -> list[str]:
    failing = []
    for sentence, attempt in attempts:
        try:
            attempt(bench)
        except (OSError, ValueError) as error:
            failing.append(f"{sentence} ({error})")
            if attempt is _try_proc:
                break
    return failing


def _try_proc(bench: _Bench) -> None:
    for path in _PROC:
        os.stat(path)


def _try_memfd(bench: _Bench) -> None:
    with vmo.create("sysmem:try", 1):
        pass


def _try_locks(bench: _Bench) -> None:
    with vmo.create("sysmem:try", 1) as own:
        locks.guard(own.fileno())
        with vmo.reopen(own.fileno(), writable=False) as handle:
            locks.mark(handle.fileno(), Kind.STRONG, 0)
            if not locks.any_left(own.fileno(), Kind.STRONG, 1):
                raise ValueError("a lock is not visible from another open file description")
            if locks.kinds_held(handle.fileno(), dict.fromkeys(Kind, 1)) != {Kind.STRONG}:
                raise ValueError(
                    "the locks of one open file description can't be distinguished from others"
                )


def _try_inotify(bench: _Bench) -> None:
    watch = bench.watch
    with vmo.create("sysmem:try", 1) as own:
        number = watch.watch_end(own.fileno())
    if number not in watch.read().ends:
        raise ValueError("the end of a memfd isn't reported")


def _try_sockets(bench: _Bench) -> None:
    near, far = channel_pair()
    with near, far:
        descriptors_waiting(near.fileno())


# --- assumptions --------------------------------------------------------------------------------------------------


def _expect(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise ValueError(f"{what}: {found}, not {expected}")


def _try_closings(bench: _Bench) -> None:
    watch = bench.watch
    with vmo.create("sysmem:try", 1) as own:
        number = watch.watch_closings(own.fileno())
        vmo.reopen(own.fileno(), writable=False).close()
        _expect(watch.read().closings, {number}, "closings that inotify reports")


def _try_mapping(bench: _Bench) -> None:
    with vmo.create("sysmem:try", 1) as own:
        with vmo.reopen(own.fileno(), writable=False) as handle:
            locks.mark(handle.fileno(), Kind.STRONG, 0)
            # Python's own mapping would keep a descriptor open.
            arguments = (mmap.PROT_READ, mmap.MAP_SHARED, handle.fileno(), 0)
            address = _libc.mmap(None, mmap.PAGESIZE, *arguments)
        if address == _MAP_FAILED:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        try:
            _expect(locks.is_left(own.fileno(), Kind.STRONG, 0), True, "locked while mapped")
        finally:
            _libc.munmap(address, mmap.PAGESIZE)
        _expect(locks.is_left(own.fileno(), Kind.STRONG, 0), False, "locked after the mapping")


def _try_own_locks(bench: _Bench) -> None:
    with vmo.create("sysmem:try", 1) as own, vmo.reopen(own.fileno(), writable=False) as handle:
        locks.mark(handle.fileno(), Kind.STRONG, 0)
        found = holds_lock(own.fileno()), holds_lock(handle.fileno())
        _expect(found, (False, True), "locks of two descriptions")


def _try_noexec(bench: _Bench) -> None:
    with vmo.create("sysmem:try", 1) as own:
        seals = fcntl.fcntl(own.fileno(), fcntl.F_GET_SEALS)
        _expect(bool(seals & _F_SEAL_EXEC), True, "sealed against being made executable")


def _try_waiting(bench: _Bench) -> None:
    near, far = map(Handle, channel_pair())
    with near, far:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, near.fileno().to_bytes(4, "little"))]
        _expect(unread_of(far.fileno()), 0, "bytes unread")
        far.as_socket().sendmsg([b"x"], ancillary)
        _expect(unread_of(far.fileno()) > 0, True, "bytes unread")
        _expect(descriptors_waiting(near.fileno()), 1, "descriptors waiting")
        drained = near.as_socket().recv(1)
        _expect((drained, descriptors_waiting(near.fileno())), (b"x", 0), "descriptors waiting")


def _try_status(bench: _Bench) -> None:
    with vmo.create("sysmem:try", 1) as own:
        known = os.fstat(own.fileno())
        expected = (known.st_mode, known.st_dev, known.st_ino)
        _expect(tuple(status(own.fileno())), expected, "type, device and inode")


def _try_groups(bench: _Bench) -> None:
    near, far = channel_pair()
    with near, far:
        try:
            near.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, mmap.PAGESIZE // 8)
        except OSError as error:
            if error.errno != errno.ERANGE:  # ERANGE: there are more groups than fit
                raise
