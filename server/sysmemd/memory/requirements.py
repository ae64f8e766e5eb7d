"""What the kernel must offer, tried at start."""

from __future__ import annotations

import os
from collections.abc import Callable

from sysmem_protocol.handles import channel_pair, descriptors_waiting

from . import locks, vmo
from .locks import Kind
from .watch import InodeWatch

_PROC = ("/proc/self/fd", "/proc/self/fdinfo")

_Attempt = Callable[[], None]


def missing_requirements() -> list[str]:
    """What the machine lacks for the daemon to run, one sentence each; empty when all is well. Nothing stays open.

    Without /proc nothing else can be tried.
    """
    attempts: tuple[tuple[str, _Attempt], ...] = (
        ("/proc must be mounted: handles are made and recognised through it", _try_proc),
        ("memfd_create with sealing is needed, for the memory itself", _try_memfd),
        ("F_OFD_SETLK locks are needed, to tell who holds a buffer", _try_locks),
        ("inotify is needed, to learn when a buffer is let go of", _try_inotify),
        ("Linux 5.6 is needed, to learn what waits in a socket that is to be closed", _try_sockets),
    )
    missing = []
    for sentence, attempt in attempts:
        try:
            attempt()
        except (OSError, ValueError) as error:
            missing.append(f"{sentence} ({error})")
            if attempt is _try_proc:
                break
    return missing


def _try_proc() -> None:
    for path in _PROC:
        os.stat(path)


def _try_memfd() -> None:
    with vmo.create("sysmem:try", 1):
        pass


def _try_locks() -> None:
    with vmo.create("sysmem:try", 1) as own:
        locks.guard(own.fileno())
        with vmo.reopen(own.fileno(), writable=False) as handle:
            locks.mark(handle.fileno(), Kind.STRONG, 0)
            if not locks.any_left(own.fileno(), Kind.STRONG, 1):
                raise ValueError("a lock isn't seen from another description")
            if locks.kinds_held(handle.fileno(), dict.fromkeys(Kind, 1)) != {Kind.STRONG}:
                raise ValueError("a description's own locks can't be told from others'")


def _try_inotify() -> None:
    watch = InodeWatch()
    try:
        with vmo.create("sysmem:try", 1) as own:
            number = watch.watch_end(own.fileno())
        if number not in watch.read().ends:
            raise ValueError("the end of a memfd isn't reported")
    finally:
        watch.close()


def _try_sockets() -> None:
    near, far = channel_pair()
    with near, far:
        descriptors_waiting(near.fileno())
