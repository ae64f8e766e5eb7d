"""One run of chaos: a real daemon, and herds of participants of several users that start, stop and die."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import sysmem
from sysmem import blocking
from sysmem._inspector import Inspector

from ..wire.process import Daemon
from . import herd

IS_ROOT: Final = os.geteuid() == 0
#: The users of the herds. A user other than root can use only its own uid.
USERS: Final = (1001, 1002, 1003, 1004) if IS_ROOT else (os.geteuid(),)
BYSTANDER: Final = 1099 if IS_ROOT else os.geteuid()
#: How long the daemon may take to answer during the chaos, on a busy machine.
PATIENCE: Final = 30.0
#: After this many seconds, nothing may be left of participants that have ended.
_LEFT_SECONDS: Final = 8.0
_THREADS_SECONDS: Final = 20.0
#: This holds however busy the machine is.
_LONGEST_SECONDS: Final = 60.0
#: The maximum number of threads for closing, asking and reclaiming, and the thread of the loop.
_MAX_THREADS: Final = 32 + 2 + 1 + 1
#: Documents that the daemon creates for inspectors and refusals, in addition to buffers.
_DOCUMENTS: Final = 64
#: Shared memory that does not belong to a buffer: those documents.
_SHMEM_BYTES: Final = 1 << 20
_CONFIG: Final = """
[limits]
max_outbox_messages = 256
[quota]
nodes = 4000
buffers = 2000
"""


class Broken(AssertionError):
    """Something doesn't hold."""


@dataclass(frozen=True)
class Event:
    """An event at a time: a herd starts, or an action is applied to the herd with a number."""

    at: float
    what: str
    herd: int
    uid: int = 0
    count: int = 0


def plan(seed: int, seconds: float) -> list[Event]:
    """Return the events of a run of this many seconds."""
    chance = random.Random(f"chaos {seed}")
    events: list[Event] = []
    living: list[int] = []
    at, herds = 0.0, 0
    while at < seconds:
        if len(living) < 6 or (len(living) < 10 and chance.random() < 0.3):
            uid, count = chance.choice(USERS), chance.choice([10, 30, 60])
            events.append(Event(at, "start", herds, uid, count))
            living.append(herds)
            herds += 1
        else:
            what = chance.choice(
                ["kill", "kill", "terminate", "stop", "stop", "continue", "reload"]
            )
            one = chance.choice(living)
            events.append(Event(at, what, one))
            if what in ("kill", "terminate"):
                living.remove(one)
        at += chance.random() * (0.1 if herds < 6 else 0.6)
    return events


_SIGNALS: Final = {
    "kill": signal.SIGKILL,
    "terminate": signal.SIGTERM,
    "stop": signal.SIGSTOP,
    "continue": signal.SIGCONT,
}


class Chaos:
    """A daemon, its herds, and the state of the run."""

    def __init__(self, directory: Path, seed: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        config = directory / "sysmemd.toml"
        config.write_text(_CONFIG)
        self._seed = seed
        self._herds: dict[int, int] = {}
        self._group = _memory_group()
        self.daemon = Daemon(directory / "own", "--mode", "0666", "--config", str(config))
        if self._group is not None:
            (self._group / "cgroup.procs").write_text(str(self.daemon.pid))
        self._inspector = Inspector.connect(self.daemon.runtime_dir)
        self._snapshot()
        self._baseline = self.daemon.descriptors()
        self._threads = self.threads()
        self.most: dict[str, int] = {}
        with as_bystander():
            self._allocator = blocking.connect(self.daemon.runtime_dir, name="bystander")
        self._kept = self._negotiated()
        with self._kept.buffers[0].map() as view:
            view[:5] = b"quiet"

    # --- what happens -------------------------------------------------------------------------------------------------

    def happen(self, event: Event) -> None:
        """Perform an event. An action on a herd that does not exist has no effect."""
        if event.what == "start":
            name = f"{self._seed} {event.herd}"
            self._herds[event.herd] = herd.start(
                self.daemon.runtime_dir, event.uid, name, event.count, self._group
            )
        elif event.what == "reload":
            self.daemon.process.send_signal(signal.SIGHUP)
        elif event.herd in self._herds:
            os.kill(self._herds[event.herd], _SIGNALS[event.what])
            if event.what in ("kill", "terminate"):
                self._end(event.herd)

    def _end(self, number: int) -> None:
        process = self._herds.pop(number)
        os.kill(process, signal.SIGKILL)  # the process may be stopped
        os.waitpid(process, 0)

    # --- what must hold -----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Check all that must hold at any moment. Raises :class:`Broken`."""
        if self.daemon.process.poll() is not None:
            raise Broken(f"the daemon ended: {self.daemon.process.returncode}")
        began = time.monotonic()
        snapshot = self._snapshot()
        self._note(snapshot, time.monotonic() - began)
        _check_snapshot(snapshot)
        memfds = sum("memfd:" in target for target in self.daemon.descriptors().values())
        buffers = max(snapshot["totals"]["buffers"], self._snapshot()["totals"]["buffers"])
        _check(memfds <= 2 * buffers + _DOCUMENTS, f"{memfds} memfds for {buffers} buffers")
        _check(self.threads() <= _MAX_THREADS, f"{self.threads()} threads")
        with as_bystander():
            self._negotiated().close()
        with self._kept.buffers[0].map() as view:
            _check(bytes(view[:5]) == b"quiet", "a bystander's buffer has changed")

    def check_left(self) -> None:
        """Check that nothing is left of the herds. This ends all of them."""
        for number in list(self._herds):
            self._end(number)
        self._kept.close()
        self._allocator.close()
        self._soon(_LEFT_SECONDS, self._nothing_is_left)
        self._soon(_THREADS_SECONDS, self._no_thread_is_left)
        for line in self.daemon.log():
            _check("exception" not in line and line["level"] != "critical", f"a fault: {line}")

    def _nothing_is_left(self) -> str | None:
        descriptors = self.daemon.descriptors()
        snapshot = self._snapshot()
        memory = sum(heap["bytes"] for heap in snapshot["heaps"])
        shared = 0 if self._group is None else _shmem(self._group)
        if len(descriptors) > len(self._baseline):
            others = {fd: to for fd, to in descriptors.items() if self._baseline.get(fd) != to}
            return f"descriptors: {others}; {snapshot['totals']}"
        if snapshot["totals"]["collections"] or snapshot["totals"]["buffers"] or memory:
            return f"{snapshot['totals']}, {memory} bytes"
        return f"{shared} bytes of shared memory" if shared > _SHMEM_BYTES else None

    def _no_thread_is_left(self) -> str | None:
        threads = self.threads()
        return f"{threads} threads" if threads > self._threads else None

    def _soon(self, seconds: float, left: Callable[[], str | None]) -> None:
        """Wait for this long, or longer if other processes keep the daemon from its work."""
        began, used = time.monotonic(), cpu_seconds(self.daemon.pid)
        while (what := left()) is not None:
            passed = time.monotonic() - began
            had_its_time = cpu_seconds(self.daemon.pid) - used > seconds / 2
            _check(
                passed < seconds or (passed < _LONGEST_SECONDS and not had_its_time),
                f"after {passed:.0f} s there are left: {what}",
            )
            time.sleep(0.1)

    def threads(self) -> int:
        """Return how many threads the daemon has."""
        return len(os.listdir(f"/proc/{self.daemon.pid}/task"))

    def _snapshot(self) -> dict[str, Any]:
        return self._inspector.snapshot(timeout=PATIENCE)

    def _note(self, snapshot: dict[str, Any], seconds: float) -> None:
        """Record the greatest numbers seen so far."""
        seen = {**snapshot["totals"], "milliseconds to look": round(seconds * 1000)}
        seen["descriptors"] = snapshot["daemon"]["descriptors"]["open"]
        self.most = {name: max(number, self.most.get(name, 0)) for name, number in seen.items()}

    def _negotiated(self) -> sysmem.BufferCollectionInfo:
        """Negotiate between two participants of a well-behaved user."""
        token = self._allocator.allocate_shared_collection()
        [other] = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS], timeout=PATIENCE)
        wish = sysmem.constraints(cpu="read, write", size_bytes=4096, hold=1)
        with (
            self._allocator.bind_shared_collection(token) as one,
            self._allocator.bind_shared_collection(other) as two,
        ):
            for collection in (one, two):
                collection.set_constraints(wish)
            two.wait_for_all_buffers_allocated(timeout=PATIENCE).close()
            info = one.wait_for_all_buffers_allocated(timeout=PATIENCE)
            for collection in (one, two):
                collection.release()
        return info

    def close(self) -> None:
        """End everything."""
        for number in list(self._herds):
            self._end(number)
        self._kept.close()
        self._allocator.close()
        self._inspector.close()
        self.daemon.kill()
        if self._group is not None:
            with contextlib.suppress(OSError):
                self._group.rmdir()


def run(directory: Path, seed: int, seconds: float, events: Sequence[Event]) -> dict[str, int]:
    """Perform events, and check the daemon all the time. Return the greatest numbers seen. Raises :class:`Broken`."""
    chaos = Chaos(directory, seed)
    try:
        began = time.monotonic()
        for event in (*events, Event(seconds, "continue", -1)):
            while (left := began + event.at - time.monotonic()) > 0:
                chaos.check()
                time.sleep(min(max(0.0, left), 0.2))
            chaos.happen(event)
        chaos.check()
        chaos.check_left()
        return chaos.most
    except (OSError, sysmem.SysmemError) as error:
        raise Broken(f"a bystander or an inspector isn't served: {error!r}") from error
    finally:
        chaos.close()


@contextlib.contextmanager
def as_bystander() -> Iterator[None]:
    """Connect as a user that has not misbehaved."""
    if not IS_ROOT:
        yield
        return
    os.setegid(BYSTANDER)
    os.seteuid(BYSTANDER)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _check(holds: bool, text: str) -> None:
    if not holds:
        raise Broken(text)


def _check_snapshot(snapshot: dict[str, Any]) -> None:
    """Check the properties that every snapshot must have."""
    for name, number in snapshot["totals"].items():
        told = sum(user[name] for user in snapshot["users"])
        _check(number == told, f"{name}: {number} in all, {told} of users")
    for user in snapshot["users"]:
        for name, limit in user["limits"].items():
            if limit is not None and name not in ("queued_bytes", "descriptors"):
                _check(user[name] <= limit, f"a user has {user[name]} {name} of {limit}")


def _memory_group() -> Path | None:
    """Return a new cgroup that counts shared memory, if this process may make one."""
    group = Path(f"/sys/fs/cgroup/memory/sysmem-chaos-{os.getpid()}-{time.monotonic_ns()}")
    try:
        group.mkdir()
        _shmem(group)
    except (OSError, KeyError):
        return None
    return group


def _shmem(group: Path) -> int:
    """Return the bytes of memfds and other shared memory that the processes of a cgroup have allocated."""
    lines = (group / "memory.stat").read_text().splitlines()
    numbers = dict(line.split() for line in lines)
    return int(numbers["shmem"])
