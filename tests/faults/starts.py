"""Faults while a daemon starts: it serves, or reports in one sentence why it can't, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..wire.raw import until
from .faults import SHIMMED, Fault
from .harness import LASTING_PATIENCE, PATIENCE, RECOVERY, Broken, Shim, negotiate, patient, traced

#: Stops the process before the daemon's first call, so that strace can attach.
_STOPPED = (
    "import os, signal, sys; from sysmemd.__main__ import main;"
    "os.kill(os.getpid(), signal.SIGSTOP); sys.exit(main())"
)
#: If one of these calls fails, files may be left at the end. The next daemon takes them over.
_REMOVING = {"unlink", "unlinkat", "newfstatat"}


class Start:
    """A directory in which daemons start, one after the other."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._runtime_dir = directory / "run"
        self._metrics = directory / "metrics"
        self._log = directory / "log"
        self._config = directory / "sysmemd.toml"
        self._config.write_text("[quota]\nnodes = 100\n")
        self._shim = Shim(directory)

    @contextlib.contextmanager
    def _stopped(self) -> Iterator[subprocess.Popen[bytes]]:
        """Yield a daemon that is about to start."""
        arguments = (
            *("--runtime-dir", self._runtime_dir, "--config", self._config),
            *("--log-format", "json", "--metrics", f"unix:{self._metrics}"),
        )
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _STOPPED, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | self._shim.environment,
            )
        try:
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
            yield process
        finally:
            process.kill()
            process.wait()

    def counts(self) -> Counter[str]:
        """Return how often the daemon makes each system call while it starts."""
        with tempfile.NamedTemporaryFile() as trace, self._stopped() as process:
            self._shim.forget()
            with traced(process.pid, "--quiet=all", "--output", trace.name):
                self._start(process, PATIENCE)
            counts = self._shim.counts()
            self._end(process)
            calls = re.findall(rb"^(?:\d+ +)?(\w+)\(", trace.read(), re.MULTILINE)
        return Counter({**Counter(call.decode() for call in calls), **counts})

    def strike(self, fault: Fault) -> None:
        """Start a daemon with a fault. Raises :class:`Broken`."""
        for path in self._left():  # left by a fault that broke something
            path.unlink()
        with self._stopped() as process:
            if fault.call in SHIMMED:
                injected = self._shim.fails(fault)
            else:
                inject = (f"--trace={fault.call}", f"--inject={fault.injection}")
                injected = traced(process.pid, "--quiet=all", *inject, "--output=/dev/null")
            try:
                with injected:
                    self._start(process, LASTING_PATIENCE if fault.lasting else PATIENCE)
                if process.poll() is None:
                    self._start(process, RECOVERY)
                status = self._end(process)
                self._assert_sound(fault, status)
            except Exception as error:
                raise Broken(f"{fault}: {error!r}\n{self._log.read_text()[-3000:]}") from error

    def _start(self, process: subprocess.Popen[bytes], patience: float) -> None:
        """Continue the daemon until it serves or has ended. Lasting faults may delay both."""
        process.send_signal(signal.SIGCONT)
        with contextlib.suppress(AssertionError):
            for _ in until(patience):
                if process.poll() is not None:
                    return
                with contextlib.suppress(Exception), patient(LASTING_PATIENCE):
                    negotiate(self._runtime_dir)
                    return

    def _end(self, process: subprocess.Popen[bytes]) -> int:
        """Return the exit status of the daemon, which must serve if it has not ended by itself."""
        if process.poll() is None:
            negotiate(self._runtime_dir)
            process.send_signal(signal.SIGTERM)
            assert process.wait(4 * PATIENCE) == 0, f"it ended with {process.returncode}"
        return process.returncode

    def _assert_sound(self, fault: Fault, status: int) -> None:
        said = self._log.read_text().splitlines()
        if fault.call == "mmap":  # the interpreter itself reports that it has no memory left
            said = [line for line in said if line.startswith("{")]
        lines = [json.loads(line) for line in said]
        assert not any("exception" in line for line in lines), "a traceback"
        if status and fault.call != "write":
            reasons = [line["reason"] for line in lines if line["event"] == "can't start"]
            assert status == 1, f"it ended with {status}"
            assert len(reasons) == 1, "it doesn't say once why it can't start"
            assert "\n" not in reasons[0]
        left = self._left()
        assert not left or fault.call in _REMOVING, f"left: {left}"

    def _left(self) -> list[Path]:
        return [*self._runtime_dir.glob("*"), *self._metrics.parent.glob("metrics")]


def strike_starts(start: Start, faults: Sequence[Fault]) -> Iterator[tuple[Fault, Broken | None]]:
    """Try faults one after another."""
    for fault in faults:
        try:
            start.strike(fault)
        except Broken as error:
            yield fault, error
        else:
            yield fault, None
