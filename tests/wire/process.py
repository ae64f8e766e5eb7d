"""The daemon as a real process, observed from outside: its descriptors, its log, its end."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .raw import PATIENCE, Allocator, Wire, until

SERVICE = "fuchsia.sysmem2.Allocator"


class Daemon:
    """A daemon for one test. It is ready when the constructor returns."""

    def __init__(
        self,
        directory: Path,
        *arguments: str,
        runtime_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.runtime_dir = runtime_dir or directory / "run"
        self.log_path = directory / "stderr"
        self.out_path = directory / "stdout"
        notify_path = directory / "notify"
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with notify, open(self.log_path, "ab") as log, open(self.out_path, "ab") as out:
            notify.bind(os.fspath(notify_path))
            self.process = subprocess.Popen(
                [
                    *prefix,
                    *(sys.executable, "-m", "sysmemd", "--runtime-dir", self.runtime_dir),
                    *("--log-format", "json", *arguments),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=os.environ | {"NOTIFY_SOCKET": str(notify_path)} | dict(environment or {}),
            )
            try:
                self._wait_ready(notify)
            except BaseException:
                self.process.kill()
                self.process.wait()
                raise
            finally:
                notify_path.unlink()
        self.watcher = Wire(self.runtime_dir)
        self.observer: Allocator = self.watcher.connect()
        self.observer.sync()
        self.baseline = self.descriptors()

    def _wait_ready(self, notify: socket.socket) -> None:
        gone = os.pidfd_open(self.process.pid)
        try:
            select.select([notify.fileno(), gone], [], [], PATIENCE)
        finally:
            os.close(gone)
        notify.setblocking(False)
        try:
            said = notify.recv(4096)
        except BlockingIOError:
            raise AssertionError(f"not ready: {self.log_path.read_text()}") from None
        assert b"READY=1" in said.split(b"\n")

    @property
    def pid(self) -> int:
        return self.process.pid

    def descriptors(self) -> dict[int, str]:
        found = {}
        for name in os.listdir(f"/proc/{self.pid}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found[int(name)] = os.readlink(f"/proc/{self.pid}/fd/{name}")
        return found

    def assert_nothing_leaked(self) -> None:
        """Check that the daemon soon has as many descriptors as before the first connection."""
        try:
            for _ in until(5.0):
                self.observer.sync()
                if len(self.descriptors()) == len(self.baseline):
                    return
        except AssertionError:
            now = self.descriptors()
            more = {fd: what for fd, what in now.items() if self.baseline.get(fd) != what}
            self.baseline = now  # the next test is not blamed again
            raise AssertionError(f"the daemon keeps {more}") from None

    def log(self) -> list[dict[str, Any]]:
        """Return the events logged so far. Each line is one JSON object."""
        lines = self.log_path.read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]

    def wait_log(self, matches: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        for _ in until():
            self.observer.sync()
            for event in self.log():
                if matches(event):
                    return event
        raise AssertionError

    def assert_log_is_sound(self) -> None:
        for event in self.log():
            assert "exception" not in event, event["exception"]
            assert event["level"] != "critical", event

    def stop(self, number: int = signal.SIGTERM) -> None:
        self.watcher.close()
        self.process.send_signal(number)
        try:
            assert self.process.wait(PATIENCE) == 0
        finally:
            self.kill()
        assert self.out_path.read_bytes() == b""
        self.assert_log_is_sound()

    def kill(self) -> None:
        self.watcher.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def run(
    *arguments: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a daemon that is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "sysmemd", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=os.environ | dict(environment or {}),
        check=False,
    )
