"""A daemon whose system calls are made to fail, and clients that must not notice.

strace attaches to the running daemon for each fault and detaches after it, so one daemon serves many faults.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import re
import select
import signal
import struct
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from sysmem._inspector import Inspector

from ..wire import raw
from ..wire.bystander import Bystander
from ..wire.process import Daemon
from ..wire.protocol import constraints
from ..wire.raw import Wire, until
from . import scenario
from .faults import SHIMMED, Fault
from .scenario import EXPECTED

#: Seconds that the scenario waits for an event that may never come, without and with a lasting fault.
PATIENCE, LASTING_PATIENCE = 5.0, 0.3
#: Seconds after a fault within which the daemon must have returned to its earlier state.
RECOVERY, THREADS_RECOVERY = 8.0, 20.0
#: The share of a processor that the daemon may use while a fault lasts and no client makes a request.
IDLE_SHARE, IDLE_SECONDS = 0.5, 0.3
#: How many times in a row the daemon's state must be the same before it counts as settled.
_SETTLED = 5


class Broken(Exception):
    """A fault had a forbidden effect."""


@dataclass(frozen=True)
class Moment:
    """A bad moment that is not the error of one system call. `strike` makes the daemon go through it."""

    name: str
    strike: Callable[[Target], None]

    def __str__(self) -> str:
        return self.name


Strike: TypeAlias = Fault | Moment


class Target:
    """A daemon with a bystander, and the daemon's state before the faults."""

    def __init__(self, directory: Path, allocation: str, prefix: Sequence[str] = ()) -> None:
        """Start the daemon. `prefix` precedes its command. With a prefix, the log is discarded."""
        self.logs = not prefix
        config = directory / "sysmemd.toml"
        directory.mkdir(parents=True, exist_ok=True)
        config.write_text(f'{scenario.CONFIGURATION}\n[memory]\nallocation = "{allocation}"\n')
        self.shim = Shim(directory)
        self.daemon = Daemon(
            directory, "--config", str(config), environment=self.shim.environment, prefix=prefix
        )
        self._wire = Wire(self.daemon.runtime_dir)
        self._bystander = Bystander(self._wire)
        self._log_position = 0
        self.run(PATIENCE, strict=True)
        self.before_threads = self.threads()
        self.before_descriptors = self._settled_descriptors()
        self.before = self.state()

    def run(self, patience: float, *, strict: bool = False) -> None:
        """Make the daemon do everything, including reading its configuration again."""
        self.daemon.process.send_signal(signal.SIGHUP)
        scenario.run(self.daemon.runtime_dir, patience, strict=strict)

    def _settled_descriptors(self) -> int:
        seen: list[int] = []
        for _ in until(2 * RECOVERY):
            # The bystander's buffer stays.
            if self.state()["totals"]["buffers"] == 1:
                time.sleep(0.1)
                seen.append(self.descriptors())
                if len(seen) > _SETTLED and len(set(seen[-_SETTLED:])) == 1:
                    break
        return seen[-1]

    # --- what the daemon has ------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the state that must not change: descriptors by kind, and the daemon's own snapshot."""
        with Inspector.connect(self.daemon.runtime_dir, timeout=PATIENCE) as inspector:
            snapshot = inspector.snapshot(timeout=PATIENCE)
        return {
            "totals": snapshot["totals"],
            "heaps": [(heap["bytes"], heap["buffers"]) for heap in snapshot["heaps"]],
            "collections": sorted(one["state"] for one in snapshot["collections"]),
        }

    def descriptors(self) -> int:
        """Return the number of open descriptors of the daemon."""
        return len(self.daemon.descriptors())

    def threads(self) -> int:
        """Return the number of threads of the daemon."""
        return len(os.listdir(f"/proc/{self.daemon.pid}/task"))

    def processor_seconds(self) -> float:
        """Return the CPU time of the daemon in seconds."""
        fields = Path(f"/proc/{self.daemon.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    # --- strace -------------------------------------------------------------------------------------------------------

    def counts(self) -> Counter[str]:
        """Return how often the daemon makes each system call in the scenario."""
        with tempfile.NamedTemporaryFile() as trace:
            self.shim.forget()
            with traced(self.daemon.pid, "--quiet=all", "--output", trace.name):
                self.run(PATIENCE)
                time.sleep(0.5)
            calls = re.findall(rb"^(?:\d+ +)?(\w+)\(", trace.read(), re.MULTILINE)
        return Counter({**Counter(call.decode() for call in calls), **self.shim.counts()})

    # --- a fault ------------------------------------------------------------------------------------------------------

    def strike(self, fault: Strike) -> None:
        """Try a fault or a bad moment. Raises :class:`Broken` if another client notices."""
        if isinstance(fault, Fault):
            self._fail(fault)
        else:
            try:
                fault.strike(self)
            except EXPECTED as error:
                raise Broken(f"{fault}: {error!r}") from error
        self.assert_unharmed(fault)

    def _fail(self, fault: Fault) -> None:
        """Make a system call fail while the scenario runs."""
        patience = LASTING_PATIENCE if fault.lasting else PATIENCE
        if fault.call in SHIMMED:
            injected = self.shim.fails(fault)
        else:
            inject = (f"--trace={fault.call}", f"--inject={fault.injection}", "--output=/dev/null")
            injected = traced(self.daemon.pid, "--quiet=all", *inject)
        with patient(patience), injected:
            self.run(patience)
            if fault.lasting:
                self.assert_idle(fault)

    def assert_idle(self, fault: object) -> None:
        """Check that the daemon does nothing while it has no requests."""
        before = self.processor_seconds()
        time.sleep(IDLE_SECONDS)
        share = (self.processor_seconds() - before) / IDLE_SECONDS
        if share > IDLE_SHARE:
            raise Broken(f"{fault}: the daemon spins, {share:.0%} of a processor")

    def assert_unharmed(self, fault: object) -> None:
        """Check that the daemon's state is as before."""
        if self.daemon.process.poll() is not None:
            log = self.daemon.log_path.read_text()[-3000:]
            raise Broken(f"{fault}: the daemon ended with {self.daemon.process.returncode}\n{log}")
        try:
            self._bystander.assert_unharmed()
            negotiate(self.daemon.runtime_dir)
        except Exception as error:
            raise Broken(f"{fault}: somebody else noticed: {error!r}") from error
        self._await(fault, "state", self.state, self.before, RECOVERY)
        self._await(fault, "descriptors", self.descriptors, self.before_descriptors, RECOVERY)
        self._await(fault, "too many threads", self._more_threads, [], THREADS_RECOVERY)
        self._has_reloaded()  # the log so far
        self.daemon.process.send_signal(signal.SIGHUP)
        self._await(fault, "read the configuration", self._has_reloaded, True, RECOVERY)

    def _more_threads(self) -> list[str]:
        """Return the additional threads, if there are more than before."""
        tasks = os.listdir(f"/proc/{self.daemon.pid}/task")
        return tasks if len(tasks) > self.before_threads else []

    def _has_reloaded(self) -> bool:
        return not self.logs or self.has_logged('"the configuration was reloaded"')

    def has_logged(self, text: str) -> bool:
        """Return whether the log has a text after the position of the previous find."""
        with self.daemon.log_path.open("rb") as log:
            log.seek(self._log_position)
            found = log.read().rpartition(text.encode())
        self._log_position += len(found[0]) + len(found[1])
        return bool(found[1])

    def _await(self, fault: object, what: str, now: Any, expected: Any, seconds: float) -> None:
        found = None
        try:
            for _ in until(seconds):
                try:
                    found = now()
                except EXPECTED as error:
                    found = repr(error)
                if found == expected:
                    return
        except AssertionError:
            log = "".join(self.daemon.log_path.read_text().splitlines(keepends=True)[-5:])
            open_now = sorted(self.daemon.descriptors().values())
            raise Broken(
                f"{fault}: {what} were {expected}, are {found}\n{log}\n{open_now}"
            ) from None

    def close(self) -> None:
        """Stop the daemon."""
        self._wire.close()
        self.daemon.kill()


@contextlib.contextmanager
def traced(pid: int, *arguments: str) -> Iterator[None]:
    """Attach strace to all threads of a process within the block."""
    command = ["strace", "--follow-forks", *arguments, "--attach", str(pid)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL) as tracer:
        try:
            assert tracer.stderr is not None
            os.set_blocking(tracer.stderr.fileno(), False)
            _wait_attached(pid, tracer)
            yield
        finally:
            tracer.send_signal(signal.SIGTERM)
            tracer.communicate(timeout=PATIENCE)


def _wait_attached(pid: int, tracer: subprocess.Popen[bytes]) -> None:
    assert tracer.stderr is not None
    tasks = Path(f"/proc/{pid}/task")
    for _ in until(PATIENCE):
        select.select([tracer.stderr], [], [], 0.05)
        statuses = [
            Path(tasks, task, "status").read_text()
            for task in os.listdir(tasks)
            if Path(tasks, task).exists()
        ]
        if all("\nTracerPid:\t0\n" not in status for status in statuses):
            return
        assert tracer.poll() is None, tracer.stderr.read()


class Shim:
    """The library that is preloaded into the daemon, and its instructions: `struct control` of `shim.c`."""

    _CONTROL = struct.Struct(f"4i{len(SHIMMED)}iq")

    def __init__(self, directory: Path) -> None:
        """Compile the library, and let nothing fail."""
        self._path, control = directory / "shim.so", directory / "control"
        if not self._path.exists():
            source = Path(__file__).with_name("shim.c")
            compiler = ("cc", "-shared", "-fPIC", "-O1", "-o", self._path, source)
            subprocess.run(compiler, check=True)
        control.write_bytes(bytes(mmap.PAGESIZE))
        self.environment = {
            "LD_PRELOAD": str(self._path),
            "SYSMEM_FAULTS_CONTROL": str(control),
        }
        with control.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), mmap.PAGESIZE)

    def forget(self) -> None:
        """Let nothing fail, and reset the counts."""
        self._tell()

    def counts(self) -> dict[str, int]:
        """Return how often each call was made since the reset."""
        values = self._CONTROL.unpack_from(self._map)
        return dict(zip(SHIMMED, values[4:], strict=False))

    @contextlib.contextmanager
    def fails(self, fault: Fault) -> Iterator[None]:
        """Make calls fail within the block."""
        number = getattr(errno, fault.error)
        self._tell(list(SHIMMED).index(fault.call), number, fault.occurrence, fault.lasting)
        try:
            yield
        finally:
            self._tell()

    @contextlib.contextmanager
    def wall_clock_jumps(self, seconds: int) -> Iterator[None]:
        """Give the daemon a wrong wall clock within the block."""
        self._tell(jump=seconds)
        try:
            yield
        finally:
            self._tell()

    def _tell(
        self, call: int = 0, error: int = 0, when: int = 0, lasting: bool = False, jump: int = 0
    ) -> None:
        counts = [0] * len(SHIMMED)
        self._CONTROL.pack_into(self._map, 0, call, error, when, lasting, *counts, jump)


def negotiate(runtime_dir: Path) -> None:
    """Negotiate between two participants, like any other client."""
    with Wire(runtime_dir) as wire:
        allocator = wire.connect()
        token = allocator.shared()
        child = token.duplicate_token()
        token.sync()
        collections = [allocator.bind(one) for one in (token, child)]
        for collection in collections:
            collection.set_constraints(constraints())
        for collection in collections:
            assert len(collection.wait().buffers) == 2
        for collection in collections:
            collection.release_and_close()
        allocator.sync()


@contextlib.contextmanager
def patient(seconds: float) -> Iterator[None]:
    """Set the timeout of raw clients within the block."""
    before, raw.PATIENCE = raw.PATIENCE, seconds
    try:
        yield
    finally:
        raw.PATIENCE = before


def strike_all(
    directory: Path, allocation: str, faults: Sequence[Strike]
) -> Iterator[tuple[Strike, Broken | None]]:
    """Try the faults one after another. After a fault that breaks something, continue with a new daemon."""
    target: Target | None = None
    number = 0
    try:
        for fault in faults:
            if target is None:
                number += 1
                target = Target(directory / str(number), allocation)
            try:
                target.strike(fault)
            except Broken as error:
                target.close()
                target = None
                yield fault, error
            else:
                yield fault, None
    finally:
        if target is not None:
            target.close()
