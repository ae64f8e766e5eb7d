"""A daemon in a process of its own for tests, with checks for leaks."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from sysmem_protocol.runtime import socket_address
from sysmem_protocol.testing import Testing

from .. import SysmemError
from .._connect import open_service
from .._inspector import Inspector
from . import _golden, _story
from ._faults import Faults
from ._leaks import Leftover, leftovers
from ._zygote import Process, Zygote

#: How long the daemon may take to become ready, to close what its clients have closed, and to stop.
PATIENCE_SECONDS = 20.0
#: Descriptors that a daemon holds only on behalf of clients: channels, eventpairs and buffers.
_COUNTED: Final = ("socket:", "/memfd:")
#: How long a daemon may take to report on a failed test, and how much of its log is shown.
_STORY_SECONDS: Final = 5.0
_LOG_CHARACTERS: Final = 4000
#: The delay before the holders of remaining resources are looked up.
_LOOK_SECONDS: Final = 0.1
#: Polling interval for state that has no notification.
_AGAIN_SECONDS: Final = 0.005


class DaemonFaults(Faults):
    """The faults of a daemon in a process of its own."""

    def __init__(self, daemon: Sysmemd) -> None:
        super().__init__(self._open)
        self._daemon = daemon
        self._used = False

    def end_of_test(self) -> None:
        """Remove the test's faults, unless the daemon has ended."""
        if self._used:
            with contextlib.suppress(ConnectionError):
                self.clear()
            self._used = False

    def _open(self) -> int:
        self._used = True
        channel, _ = open_service([self._daemon.runtime_dir], Testing, may_wait=True)
        return channel.take()

    def stop(self) -> None:
        """Stop the daemon with SIGTERM, as an operator does. Raises `AssertionError` unless it stops cleanly."""
        self._daemon.stop()

    def kill(self) -> None:
        """Kill the daemon with SIGKILL, and wait for its end."""
        self._daemon.process.kill()
        self._daemon.process.wait()

    def restart(self) -> None:
        """Start the daemon again in the same directory. If it still runs, stop it first."""
        if self._daemon.process.poll() is None:
            self.stop()
        self._daemon.start()

    def pause(self) -> None:
        """Stop the daemon's process with SIGSTOP, until :meth:`resume`."""
        self._daemon.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Continue the daemon's process."""
        self._daemon.process.send_signal(signal.SIGCONT)


class Sysmemd:
    """A running `sysmemd` with a runtime directory of its own."""

    def __init__(self, runtime_dir: Path, log_path: Path, start: Callable[[], Process]) -> None:
        """Start the daemon. The caller must close it."""
        self.runtime_dir = runtime_dir
        self.log_path = log_path
        self._start = start
        self.process: Process = start()
        #: Fault injection, and control of the daemon's process.
        self.faults: DaemonFaults = DaemonFaults(self)
        self._traced_before = 0
        self._held_at_start = self._held()

    def start(self) -> None:
        """Start the daemon again in the same directory, after it has ended."""
        self.process.close()
        self.process = self._start()
        self.begin()

    def close(self) -> None:
        """Kill the daemon if it still runs. Idempotent."""
        self.process.close()

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """Everything that the daemon has written to stderr so far."""
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, text: str, timeout: float = PATIENCE_SECONDS) -> str:
        """Wait until `text` is in the log, which the daemon writes when it is otherwise idle. Return the whole log.

        Raises `AssertionError` if the text is not there after `timeout` seconds.
        """
        __tracebackhide__ = True
        deadline = time.monotonic() + timeout
        while text not in (log := self.log):
            if time.monotonic() > deadline:
                raise AssertionError(f"sysmemd didn't log {text!r}\n{log}")
            time.sleep(_AGAIN_SECONDS)
        return log

    def begin(self) -> None:
        """Record what the daemon holds now. A later leak check compares with it. Called at the start of a test."""
        self._held_at_start = self._held()
        trace = self.faults.trace()
        self._traced_before = trace[-1]["number"] if trace else 0

    def snapshot(self) -> dict[str, Any]:
        """Return the daemon's current state as its Inspector reports it."""
        with self._inspector() as inspector:
            return inspector.snapshot(timeout=PATIENCE_SECONDS)

    def why(self, collection: int | str) -> str:
        """Return why a collection, given by id or name, waits, failed or has the settings that it has.

        Raises `ValueError` if there is no such collection.
        """
        with self._inspector() as inspector:
            found = _story.find(inspector.snapshot(timeout=PATIENCE_SECONDS), collection)
            explained = inspector.explain(found["id"], timeout=PATIENCE_SECONDS)
        return _story.why(found, explained)

    def last_report(self) -> str:
        """Return the report of the newest negotiation. Raises `AssertionError` if there was none."""
        with self._inspector() as inspector:
            snapshot = inspector.snapshot(timeout=PATIENCE_SECONDS)
            newest = _story.newest(snapshot)
            return _golden.negotiated(inspector.explain(newest, timeout=PATIENCE_SECONDS))

    def trace(self) -> list[dict[str, Any]]:
        """Return the messages since the test began; see :attr:`sysmem.testing.Daemon.trace`."""
        return [each for each in self.faults.trace() if each["number"] > self._traced_before]

    def story(self) -> list[_story.Section]:
        """Return the report for a failed test. It has only the log if the daemon does not answer."""
        told = []
        try:
            with self._inspector() as inspector:
                explain = partial(inspector.explain, timeout=_STORY_SECONDS)
                snapshot = inspector.snapshot(timeout=_STORY_SECONDS)
                told = _story.sections(snapshot, explain, self.trace())
        except (OSError, SysmemError) as error:
            told.append(("the daemon doesn't answer", str(error)))
        return [*told, ("the daemon's log", _story.folded(self.log[-_LOG_CHARACTERS:].rstrip()))]

    def _inspector(self) -> Inspector:
        return Inspector.connect(self.runtime_dir, timeout=PATIENCE_SECONDS)

    def _held(self) -> Counter[str]:
        """Count the daemon's descriptors in /proc that exist only because of clients."""
        held: Counter[str] = Counter()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for entry in Path(f"/proc/{self.pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    target = os.readlink(entry)
                    if target.startswith(_COUNTED):
                        held[target] += 1
        return held

    def check_for_leaks(self) -> None:
        """Raise `AssertionError` unless the daemon releases everything that it did not hold when it was started.

        All clients must be closed, in every process.
        """
        __tracebackhide__ = True
        gc.collect()
        deadline = time.monotonic() + PATIENCE_SECONDS
        look_at = time.monotonic() + _LOOK_SECONDS
        while new := self._held() - self._held_at_start:
            if time.monotonic() > look_at:
                left = self._leftovers()
                # Descriptors of this process: no other process will close them, so do not wait.
                ours = left and all(_is_ours(each) for each in left)
                if ours or time.monotonic() > deadline:
                    raise AssertionError(self._told_of_leak(new, left))
                look_at = time.monotonic() + _LOOK_SECONDS
            # There is no notification when another process closes a descriptor.
            time.sleep(_AGAIN_SECONDS)

    def _leftovers(self) -> list[Leftover]:
        try:
            return leftovers(self.snapshot())
        except (OSError, SysmemError):
            return []

    def _told_of_leak(self, new: Counter[str], left: list[Leftover]) -> str:
        named = "".join(f"\n  {each}" for each in left)
        return _story.folded(
            f"sysmemd still holds {new.total()} descriptors more than at its start; a client is still open, or it "
            f"leaks:{named or ' ' + ', '.join(sorted(new))}\n{self.log}"
        )

    def stop(self) -> None:
        """Stop the daemon with SIGTERM. Raises `AssertionError` unless it stops cleanly."""
        __tracebackhide__ = True
        self.process.terminate()
        try:
            status = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"sysmemd didn't stop on SIGTERM\n{self.log}") from None
        if status != 0:
            raise AssertionError(f"sysmemd ended with status {status}\n{self.log}")
        if left := [entry.name for entry in self.runtime_dir.iterdir() if entry.is_socket()]:
            raise AssertionError(f"sysmemd left sockets behind: {', '.join(left)}")


def _is_ours(left: Leftover) -> bool:
    """Return whether this process is the only holder."""
    return bool(left.holders) and all(each.pid == os.getpid() for each in left.holders)


@contextlib.contextmanager
def sysmemd(
    config: Mapping[str, Any] | str | None = None,
    arguments: Sequence[str | os.PathLike[str]] = (),
    *,
    zygote: Zygote | None = None,
) -> Iterator[Sysmemd]:
    """Run a daemon in a temporary runtime directory. It is ready when the block begins, and is killed at the end.

    Args:
        config: The daemon's configuration, as TOML text or as parsed TOML data.
        arguments: Further command line arguments.
        zygote: The process that forks the daemon. The daemon ends with it. By default one is started for this daemon.
    """
    with contextlib.ExitStack() as stack:
        forks = zygote or stack.enter_context(contextlib.closing(Zygote()))
        directory = Path(tempfile.mkdtemp(prefix="sysmem-"))
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        runtime_dir = directory / "run"
        runtime_dir.mkdir(mode=0o700)
        command = [
            "--testing",
            "--runtime-dir",
            os.fspath(runtime_dir),
            *[os.fspath(each) for each in arguments],
        ]
        if config is not None:
            file = directory / "sysmemd.toml"
            file.write_text(config if isinstance(config, str) else toml(config))
            command += ["--config", os.fspath(file)]
        log_path = directory / "sysmemd.log"
        start = partial(_start, forks, command, directory, log_path)
        yield stack.enter_context(contextlib.closing(Sysmemd(runtime_dir, log_path, start)))


def _start(zygote: Zygote, command: list[str], directory: Path, log_path: Path) -> Process:
    """Start a daemon and wait until it is ready."""
    __tracebackhide__ = True
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify,
        log_path.open("ab") as log,
    ):
        path = directory / "notify"
        path.unlink(missing_ok=True)
        with socket_address(path) as address:
            notify.bind(address)
        environment = {**os.environ, "NOTIFY_SOCKET": os.fspath(path)}
        process = zygote.start(
            "sysmemd.__main__:main", command, output=log.fileno(), environment=environment
        )
        try:
            _wait_until_ready(notify, process, log_path)
        except BaseException:
            process.close()
            raise
        return process


def _wait_until_ready(notify: socket.socket, process: Process, log_path: Path) -> None:
    """Wait for the daemon's READY=1."""
    __tracebackhide__ = True
    poll = select.poll()
    for fd in (notify, process):
        poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while process.poll() is None and (left := deadline - time.monotonic()) > 0:
        poll.poll(left * 1000)
        with contextlib.suppress(BlockingIOError):
            if b"READY=1" in notify.recv(4096, socket.MSG_DONTWAIT).split(b"\n"):
                return
    log = log_path.read_text(errors="replace")
    raise AssertionError(f"sysmemd didn't start (status {process.poll()})\n{log}")


def toml(data: Mapping[str, Any]) -> str:
    """Return the TOML text of a configuration."""
    return "".join(f"{json.dumps(key)} = {_toml_value(value)}\n" for key, value in data.items())


def _toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        members = (f"{json.dumps(key)} = {_toml_value(member)}" for key, member in value.items())
        return f"{{{', '.join(members)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml_value, value))}]"
    return json.dumps(value)  # strings, numbers and booleans have the same form in TOML and JSON
