"""Fixtures to test against a real daemon: `sysmemd` and `allocator`.

Installed with the package; pytest finds it by itself. The fixtures start nothing unless a test asks for them::

    def test_camera(allocator, sysmemd):
        token = allocator.allocate_shared_collection()
        start_camera(token, runtime_dir=sysmemd.runtime_dir)
"""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sysmem_protocol.runtime import socket_address

if TYPE_CHECKING:
    from .blocking import Allocator

#: How long the daemon may take to be ready, to close what its clients closed, and to stop.
PATIENCE_SECONDS = 20.0
#: What a daemon may hold more of only while a client does: channels, eventpairs and buffers.
_COUNTED = ("socket:", "/memfd:")


class Daemon:
    """A running `sysmemd` with a runtime directory of its own."""

    def __init__(self, runtime_dir: Path, process: subprocess.Popen[bytes], log_path: Path) -> None:
        self.runtime_dir = runtime_dir
        self.process = process
        self.log_path = log_path
        self._held_at_start = self._held()

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.process.pid

    @property
    def log(self) -> str:
        """All that the daemon has written to stderr so far."""
        return self.log_path.read_text(errors="replace")

    def wait_for_log(self, text: str, timeout: float = PATIENCE_SECONDS) -> str:
        """Wait until `text` is in the log, which the daemon writes when it has nothing better to do; the whole log.

        Fails the test when it isn't there after `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        while text not in (log := self.log):
            if time.monotonic() > deadline:
                pytest.fail(f"sysmemd didn't log {text!r}\n{log}", pytrace=False)
            time.sleep(0.005)
        return log

    def _held(self) -> Counter[str]:
        """What the daemon holds that only clients can be the reason for, as /proc shows it."""
        held: Counter[str] = Counter()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for entry in Path(f"/proc/{self.pid}/fd").iterdir():
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    target = os.readlink(entry)
                    if target.startswith(_COUNTED):
                        held[target] += 1
        return held

    def check_for_leaks(self) -> None:
        """Fail unless the daemon comes to hold nothing that it didn't hold when it was started.

        All clients must be closed, in every process.
        """
        gc.collect()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while new := self._held() - self._held_at_start:
            if time.monotonic() > deadline:
                pytest.fail(
                    f"sysmemd still holds {new.total()} descriptors more than at its start; a client is still open, "
                    f"or it leaks: {', '.join(sorted(new))}\n{self.log}",
                    pytrace=False,
                )
            time.sleep(0.005)  # nothing tells when another process closes a descriptor

    def stop(self) -> None:
        """Stop the daemon with SIGTERM and fail unless it leaves cleanly."""
        self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"sysmemd didn't stop on SIGTERM\n{self.log}", pytrace=False)
        if status != 0:
            pytest.fail(f"sysmemd ended with status {status}\n{self.log}", pytrace=False)
        if left := [entry.name for entry in self.runtime_dir.iterdir() if entry.is_socket()]:
            pytest.fail(f"sysmemd left sockets behind: {', '.join(left)}", pytrace=False)


@contextlib.contextmanager
def running_daemon(*arguments: str) -> Iterator[Daemon]:
    """A daemon, ready, in a temporary runtime directory; killed at the end if it still runs.

    `arguments` are more of its command line, a configuration file for example.
    """
    directory = Path(tempfile.mkdtemp(prefix="sysmem-"))
    try:
        runtime_dir, log_path = directory / "run", directory / "sysmemd.log"
        runtime_dir.mkdir(mode=0o700)
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify,
            log_path.open("wb") as log,
        ):
            with socket_address(directory / "notify") as address:
                notify.bind(address)
            process = subprocess.Popen(
                [sys.executable, "-m", "sysmemd", "--runtime-dir", runtime_dir, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "NOTIFY_SOCKET": os.fspath(directory / "notify")},
            )
            try:
                _wait_until_ready(notify, process, log_path)
                yield Daemon(runtime_dir, process, log_path)
            finally:
                if process.poll() is None:
                    process.kill()
                process.wait()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _wait_until_ready(
    notify: socket.socket, process: subprocess.Popen[bytes], log_path: Path
) -> None:
    """Wait for the daemon's READY=1."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    notify.settimeout(0.05)  # how soon a daemon that couldn't start is noticed
    while True:
        with contextlib.suppress(TimeoutError):
            if b"READY=1" in notify.recv(4096).split(b"\n"):
                return
        if process.poll() is not None or time.monotonic() > deadline:
            pytest.fail(
                f"sysmemd didn't start (status {process.poll()})\n{log_path.read_text(errors='replace')}",
                pytrace=False,
            )


_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note a failed test: what it left open is no news then."""
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


@pytest.fixture
def sysmemd(request: pytest.FixtureRequest) -> Iterator[Daemon]:
    """A real daemon of the test's own: `.runtime_dir`, `.pid`, `.log`.

    At the end it must hold nothing for clients any more (they must all be closed), stop on SIGTERM with status 0 and
    remove its sockets. A test may stop or kill it itself; then nothing is checked.
    """
    with running_daemon() as daemon:
        yield daemon
        if daemon.process.poll() is None and not request.node.stash.get(_failed, False):
            daemon.check_for_leaks()
            daemon.stop()


@pytest.fixture
def allocator(sysmemd: Daemon) -> Iterator[Allocator]:
    """A blocking Allocator, connected to the test's daemon."""
    from . import blocking

    with blocking.connect(sysmemd.runtime_dir) as connected:
        yield connected
