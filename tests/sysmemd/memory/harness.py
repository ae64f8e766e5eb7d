"""Other processes that hold buffers, and a clock that tests move."""

from __future__ import annotations

import ast
import heapq
import os
import resource
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

from sysmem_protocol.handles import Handle
from sysmem_protocol.sysmem2 import (
    SYSTEM_RAM_HEAP,
    AllocatedHeap,
    BufferMemorySettings,
    CoherencyDomain,
    Heap,
    Rights,
    SingleBufferSettings,
)
from sysmemd.memory import Buffers, DeliveredBuffer, Memory
from sysmemd.ports import ClientInfo

from ...companion import Companion
from ..recording import RecordingLog

PAGE = 4096
READ = Rights.READ | Rights.MAP | Rights.DUPLICATE | Rights.TRANSFER
READ_WRITE = READ | Rights.WRITE
CAMERA = ClientInfo("camera", 7)
VIEWER = ClientInfo("viewer", 8)
_GIVE_UP_S = 20.0


class TestClock:
    """The monotonic clock plus an offset. The test makes its calls."""

    __test__ = False

    def __init__(self) -> None:
        self._ahead = 0
        self._calls: list[tuple[int, int, list[Callable[[], None]]]] = []
        self._count = 0

    def now(self) -> int:
        return time.monotonic_ns() + self._ahead

    def call_at(self, deadline: int, callback: Callable[[], None]) -> Callable[[], None]:
        call = [callback]
        self._count += 1
        heapq.heappush(self._calls, (deadline, self._count, call))
        return call.clear

    def advance(self, ns: int) -> None:
        """Advance the time by `ns`, and make the calls that become due, in order."""
        end = self.now() + ns
        while (due := self.next_due()) is not None and due <= end:
            self._ahead += max(0, due - self.now())
            self.run_due()
        self._ahead += max(0, end - self.now())

    def next_due(self) -> int | None:
        while self._calls and not self._calls[0][2]:
            heapq.heappop(self._calls)
        return self._calls[0][0] if self._calls else None

    def run_due(self) -> None:
        while (due := self.next_due()) is not None and due <= self.now():
            self.run_next()

    def run_next(self) -> None:
        """Make the next call, whether it is due or not."""
        assert self.next_due() is not None
        callback = heapq.heappop(self._calls)[2].pop()
        callback()


class Bench:
    """A Memory with its dependencies, and a loop like the daemon's."""

    def __init__(self, *heaps: Any, **options: Any) -> None:
        self.clock = TestClock()
        self.log = RecordingLog()
        self.memory = Memory(heaps, clock=self.clock, log=self.log, **options)
        self.no_strong: list[int] = []
        self._handles: list[Handle | DeliveredBuffer] = []

    def close(self) -> None:
        self.memory.close()
        for handle in self._handles:
            handle.close()

    # --- shorthand ---

    def allocate(self, count: int = 1, **options: Any) -> Buffers:
        """Allocate and wait for the buffers. Raises the error. `options` are those of `begin`."""
        made = self.begin(count, **options)
        self.wait(lambda: bool(made))
        if isinstance(made[0], Exception):
            raise made[0]
        return made[0]

    def begin(
        self,
        count: int = 1,
        *,
        size: int = PAGE,
        name: str = "frames",
        collection_id: int = 42,
        heap: Heap = SYSTEM_RAM_HEAP,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> list[Buffers | Exception]:
        """Begin an allocation. The list receives its outcome."""
        made: list[Buffers | Exception] = []
        self.memory.allocate(
            collection_id=collection_id,
            name=name,
            settings=settings(size, heap),
            count=count,
            on_no_strong=lambda: self.no_strong.append(collection_id),
            is_wanted=is_wanted,
            done=made.append,
        )
        return made

    def strong(self, buffers: Buffers, rights: Rights = READ_WRITE) -> list[Handle]:
        """Return strong handles, one for each buffer. They are closed at the end of the test at the latest."""
        made = buffers.hand_out(rights, weak=False, client=CAMERA)
        self._handles += made
        return [present(entry.vmo) for entry in made]

    def weak(
        self, buffers: Buffers, rights: Rights = READ_WRITE, client: ClientInfo = VIEWER
    ) -> list[tuple[Handle, Handle]]:
        """Return weak handles with their close_weak_asap."""
        made = buffers.hand_out(rights, weak=True, client=client)
        self._handles += made
        return [(present(entry.vmo), present(entry.close_weak_asap)) for entry in made]

    def given_away(self, peer: Peer) -> Handle:
        """Give the only strong handle of a buffer to a peer. Return the close_weak_asap of a weak handle."""
        buffers = self.allocate()
        peer.give(*self.strong(buffers))
        ((_, close_weak_asap),) = self.weak(buffers)
        buffers.drop_strong()
        return close_weak_asap

    def keep(self, entries: Sequence[DeliveredBuffer]) -> Sequence[DeliveredBuffer]:
        self._handles += entries
        return entries

    def tracker(self, buffers: Buffers, remaining: int = 0) -> Handle:
        """Return the client end of a lifetime tracking."""
        near, far = pair()
        self._handles.append(far)
        buffers.track_lifetime(self.memory.event(near), remaining)
        return far

    # --- the loop ---

    def wait(self, condition: Callable[[], bool]) -> None:
        """Run the daemon's loop until a condition holds. It wakes up only for events and timers."""
        give_up = time.monotonic() + _GIVE_UP_S
        poller = select.poll()
        poller.register(self.memory.fileno(), select.POLLIN)
        while not condition():
            left = give_up - time.monotonic()
            assert left > 0, "waited in vain"
            if (due := self.clock.next_due()) is not None:
                left = min(left, max(0, (due - self.clock.now()) / 1e9))
            poller.poll(left * 1000)
            self.memory.process_events()
            self.clock.run_due()

    def wait_closed(self, event: Handle) -> None:
        self.wait(lambda: is_closed(event))

    def quiet(self) -> None:
        """Run the loop until there is nothing left to do, including timers of repeated checks. Moves the clock."""
        while self.is_awake():
            self.memory.process_events()
        self.clock.advance(20_000_000)
        while self.is_awake():
            self.memory.process_events()
        self.clock.run_due()

    def is_awake(self) -> bool:
        """Return whether something would wake the daemon now."""
        return bool(select.select([self.memory.fileno()], [], [], 0)[0])

    def states(self) -> dict[str, int]:
        return self.memory.statistics().buffers


def settings(size: int = PAGE, heap: Heap = SYSTEM_RAM_HEAP) -> SingleBufferSettings:
    return SingleBufferSettings(
        buffer_settings=BufferMemorySettings(
            size_bytes=size,
            raw_vmo_size=-(-size // PAGE) * PAGE,
            is_physically_contiguous=False,
            is_secure=False,
            coherency_domain=CoherencyDomain.CPU,
            heap=AllocatedHeap(heap_type=heap.heap_type or "", id=heap.id or 0),
        )
    )


def pair() -> tuple[Handle, Handle]:
    near, far = socket.socketpair()
    return Handle(near.detach()), Handle(far.detach())


def is_closed(event: Handle) -> bool:
    """Return whether the other end of an eventpair is closed, as the kernel reports it."""
    poller = select.poll()
    poller.register(event.fileno(), 0)
    return bool(poller.poll(0))


def present(handle: Handle | None) -> Handle:
    assert handle is not None
    return handle


class few_descriptors:  # noqa: N801 - used as a function
    """Leave the process only `spare` free descriptors within the block."""

    def __init__(self, spare: int) -> None:
        self._spare = spare

    def __enter__(self) -> None:
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The lowest free number is used first: fill the gaps, then allow this many more.
        self._fill = [os.open("/dev/null", os.O_RDONLY) for _ in range(32)]
        top = max(int(fd) for fd in os.listdir("/proc/self/fd"))
        while self._fill[-1] < top:
            self._fill.append(os.open("/dev/null", os.O_RDONLY))
        limit = self._fill[-1] + 1 + self._spare
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, self._limits[1]))

    def __exit__(self, *_: object) -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
        for fd in self._fill:
            os.close(fd)


class Peer(Companion):
    """Another process, which follows commands with the descriptors that it receives.

    `run` executes statements there; `fds` are the descriptors, in the order of sending, and the value of `result` is
    returned. When `run` returns, the statements have been executed.
    """

    def __init__(self, user: int | None = None) -> None:
        super().__init__(sys.executable, "-I", "-c", _BECOME + _PEER_SOURCE, patience=_GIVE_UP_S)
        if user is not None:
            self.run(f"become({user})")

    def send(self, *handles: Handle) -> None:
        """Send a duplicate of each handle's descriptor."""
        fds = [handle.fileno() for handle in handles]
        socket.send_fds(self.link, [b"pass"], fds)
        self._answer()

    def give(self, *handles: Handle) -> None:
        """Send each handle's descriptor, and close the handle."""
        self.send(*handles)
        for handle in handles:
            handle.close()

    def run(self, source: str) -> Any:
        self.link.send(source.encode())
        return self._answer()

    def _answer(self) -> Any:
        return ast.literal_eval(self.link.recv(65536).decode())


_PEER_SOURCE = """
import contextlib, errno, fcntl, mmap, os, socket, struct, sys
channel = socket.socket(fileno=int(sys.argv[1]))
fds, maps = [], []
FLOCK = struct.Struct("hhqqi0q")
def lock(fd, kind, start, length, command=fcntl.F_OFD_SETLK):
    fcntl.fcntl(fd, command, FLOCK.pack(kind, 0, start, length, 0))
def reopen(fd, flags=os.O_RDWR):
    return os.open(f"/proc/self/fd/{fd}", flags)
def refused(what, *arguments, **keywords):
    try:
        what(*arguments, **keywords)
    except OSError as error:
        return errno.errorcode[error.errno]
    return "allowed"
while True:
    data, got, _, _ = socket.recv_fds(channel, 65536, 250)
    fds += got
    if not data:
        break
    result = None
    exec(data)
    channel.send(repr(result).encode())
"""


_BECOME = """
import ctypes, os
def become(uid):
    # The interpreter may be where only root can start it, so the user is changed here. PR_SET_DUMPABLE: as after exec,
    # /proc/self is the new user's own.
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    ctypes.CDLL(None).prctl(4, 1)
"""


def run_as(uid: int, source: str) -> None:
    """Run Python source in a process of another user, which can import the tested modules."""
    preamble = f"import sysmemd.memory\n{_BECOME}\nbecome({uid})\n"
    subprocess.run([sys.executable, "-c", preamble + source], check=True, timeout=_GIVE_UP_S)
