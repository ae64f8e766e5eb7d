"""Other bad moments: few descriptors left, a queue that overflows, a clock that jumps, a log that is full."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from sysmem_protocol.runtime import service_path
from sysmem_protocol.sysmem2 import Allocator

from ..wire.protocol import constraints
from ..wire.raw import Wire, until
from .harness import LASTING_PATIENCE, PATIENCE, RECOVERY, Broken, Moment, Target, patient

#: How many more descriptors the daemon may open.
_DESCRIPTORS = (0, 1, 2, 3, 4, 5, 6, 8, 10, 13, 17, 22, 30, 40)
_FEW = (0, 1, 3)
#: How much more memory the daemon may map, in KiB. A thread's stack takes 8 MiB of that.
_MEMORY_KIB = (0, 64, 256, 1024, 4096, 16_384)
#: After this many seconds the daemon has tried to create a socket again.
_NOTICED_SECONDS = 0.5
_YEARS = 365 * 86_400


@contextlib.contextmanager
def limited(target: Target, what: int, limit: int) -> Iterator[None]:
    """Lower one of the daemon's soft limits within the block."""
    pid = target.daemon.pid
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, what, before)


def few_descriptors(more: int, target: Target) -> None:
    """The daemon may open only this many more descriptors. Received descriptors count too."""
    limit = max(target.daemon.descriptors()) + 1 + more
    with patient(LASTING_PATIENCE), limited(target, resource.RLIMIT_NOFILE, limit):
        target.run(LASTING_PATIENCE)
        target.assert_idle(f"{more} descriptors left")


def little_memory(kib: int, target: Target) -> None:
    """The daemon may map only this much more memory.

    Allocations by the C library and the interpreter fail beyond that.
    """
    pages = int(Path(f"/proc/{target.daemon.pid}/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + kib * 1024
    with patient(LASTING_PATIENCE), limited(target, resource.RLIMIT_AS, limit):
        target.run(LASTING_PATIENCE)
        target.assert_idle(f"{kib} KiB of memory left")


def removed(more: int, target: Target) -> None:
    """A service socket is removed while the daemon may open only this many more descriptors.

    Then the limit is lifted.
    """
    path = service_path(target.daemon.runtime_dir, Allocator)
    limit = max(target.daemon.descriptors()) + 1 + more
    with limited(target, resource.RLIMIT_NOFILE, limit):
        path.unlink()
        time.sleep(_NOTICED_SECONDS)
        target.assert_idle(f"removed with {more} descriptors left")
    for _ in until(RECOVERY):
        if target.has_logged("the service sockets were recreated"):
            break


def jump(seconds: int, target: Target) -> None:
    """The wall clock is wrong for a while, then right again."""
    with target.shim.wall_clock_jumps(seconds):
        target.run(PATIENCE, strict=True)
        year = time.gmtime(time.time() + seconds).tm_year
        if not target.has_logged(f'"timestamp": "{year}-'):
            raise Broken("the clock did not jump")


def overflow(target: Target) -> None:
    """More handles are closed than inotify can report, the last ones among them.

    The events must be signalled all the same.
    """
    events = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with Wire(target.daemon.runtime_dir) as wire:
        allocator = wire.connect()
        collection = allocator.non_shared()
        collection.set_constraints(constraints(camping=2))
        info = collection.wait()
        gone = collection.track_lifetime()
        collection.release_and_close()
        allocator.sync()
        handles = [info.vmo(index) for index in range(2)]
        os.kill(target.daemon.pid, signal.SIGSTOP)
        try:
            os.waitid(os.P_PID, target.daemon.pid, os.WSTOPPED)
            # inotify merges equal consecutive reports into one.
            for number in range(events + 100):
                os.close(os.open(f"/proc/self/fd/{handles[number % 2].fileno()}", os.O_RDONLY))
            info.close()
        finally:
            os.kill(target.daemon.pid, signal.SIGCONT)
        gone.wait_closed()
    for _ in until(PATIENCE):  # a thread writes the log
        if target.has_logged("the kernel dropped close events of buffers"):
            return


MOMENTS = (
    *(Moment(f"{n} descriptors left", partial(few_descriptors, n)) for n in _DESCRIPTORS),
    *(Moment(f"{kib} KiB of memory left", partial(little_memory, kib)) for kib in _MEMORY_KIB),
    *(Moment(f"a socket is removed with {n} descriptors left", partial(removed, n)) for n in _FEW),
    Moment("inotify's queue overflows", overflow),
    Moment("the wall clock goes 20 years ahead", partial(jump, 20 * _YEARS)),
    Moment("the wall clock goes 20 years back", partial(jump, -20 * _YEARS)),
)
#: Logs that can't be written, and the expected fate of the daemon.
LOGS = {
    "the log's disk is full": ("bash", "-c", 'exec "$@" 2>/dev/full', "bash"),
    "the log's reader is gone": ("bash", "-c", 'exec "$@" 2> >(exec true)', "bash"),
}
