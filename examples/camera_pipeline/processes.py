"""The processes of the example: the participants, their messages, and the example's own daemon."""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import report
from sysmem import blocking

HERE = Path(__file__).resolve().parent
PATIENCE = 120.0  # seconds without messages that mean a failure, also on a slow machine
Message = dict[str, Any]


class FailedError(Exception):
    """Something wasn't as it should be."""


@dataclass
class Participant:
    """One of the processes, and the messages that it has sent so far."""

    name: str
    process: subprocess.Popen[bytes]
    asked: report.Column = field(default_factory=dict)
    got: Message = field(default_factory=dict)
    seen: dict[int, Message] = field(default_factory=dict)  # by the number of the frame
    encoded: Message = field(default_factory=dict)
    noticed: Message = field(default_factory=dict)

    def fileno(self) -> int:
        """The descriptor of its messages, so that `select` takes a Participant."""
        assert self.process.stdout is not None
        return self.process.stdout.fileno()

    def receive(self) -> None:
        """Read and store the next message."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise FailedError(f"the {self.name} ended early")
        message = json.loads(line)
        match message["kind"]:
            case "asked":
                self.asked = message["column"]
            case "got":
                self.got = message
            case "seen":
                self.seen[message["number"]] = message
            case "encoded":
                self.encoded = message
            case "noticed":
                self.noticed = message


def listen(participants: Sequence[Participant], until: Callable[[], bool]) -> None:
    """Read messages until a condition holds. Raises `FailedError` if no message comes for a long time."""
    while not until():
        talking = [
            p for p in participants if not p.noticed
        ]  # "noticed" is a participant's last message
        if not talking:
            raise FailedError("everybody saw the collection fail, too early")
        readable, _, _ = select.select(talking, [], [], PATIENCE)
        if not readable:
            raise FailedError(f"nothing happened for {PATIENCE:.0f} seconds")
        for participant in readable:
            participant.receive()


@contextlib.contextmanager
def started(
    name: str,
    directory: str,
    token: blocking.BufferCollectionToken,
    ends: Sequence[socket.socket],
    *options: str,
) -> Iterator[Participant]:
    """Run a participant's script, which inherits its token and its ends of streams. The with-block's end kills it."""
    inherited = [token.fileno(), *(end.fileno() for end in ends)]
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(
            subprocess.Popen(
                [
                    *(sys.executable, str(HERE / f"{name}.py"), "--token", str(inherited[0])),
                    *("--frames", *map(str, inherited[1:]), *options),
                ],
                pass_fds=inherited,
                stdout=subprocess.PIPE,
                bufsize=0,  # `select` doesn't see lines that were already read into a buffer
                env={**os.environ, "SYSMEM_RUNTIME_DIR": directory},
                process_group=0,  # Ctrl-C interrupts the initiator only
            )
        )
        stack.callback(process.kill)
        yield Participant(name, process)


@contextlib.contextmanager
def own_daemon(out: Path) -> Iterator[str]:
    """Run a daemon for this run alone, in its own directory. Its log stays in `out`."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sysmem-"))
        log = stack.enter_context((out / "sysmemd.log").open("wb"))
        ready = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        ready.bind(f"{directory}/ready")
        daemon = subprocess.Popen(
            [sys.executable, "-m", "sysmemd", "--runtime-dir", directory],
            stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": f"{directory}/ready"},
            process_group=0,
        )
        stack.callback(daemon.wait)
        stack.callback(daemon.terminate)
        ended = os.pidfd_open(daemon.pid)
        stack.callback(os.close, ended)
        if ready.fileno() not in select.select([ready.fileno(), ended], [], [], PATIENCE)[0]:
            raise FailedError(f"the daemon doesn't start, see {log.name}")
        yield directory
