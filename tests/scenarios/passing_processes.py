"""Processes that pass tokens on. Each way of starting processes in Python is used, and a socket controls them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
from multiprocessing.process import BaseProcess
from pathlib import Path

from sysmem import blocking

from ..closes import ClosesWithBlock
from .other_process import participate
from .scenario import ENOUGH

ROOT = Path(__file__).parents[2]
METHODS = ("fork", "spawn", "forkserver", "subprocess")

_PROGRAM = f"""
import socket, sys
sys.path.insert(0, {os.fspath(ROOT)!r})
from tests.scenarios.passing_processes import play
play(sys.argv[1], sys.argv[2], sys.argv[3], socket.socket(fileno=int(sys.argv[4])))
"""


class Actor(ClosesWithBlock):
    """A process with a role, as the scenario sees it. It reports its progress, and continues when it is told to."""

    def __init__(self, method: str, part: str, runtime_dir: Path, name: str) -> None:
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(ENOUGH)
        self._process: BaseProcess | subprocess.Popen[bytes]
        with theirs:
            if method == "subprocess":
                words = (part, os.fspath(runtime_dir), name, str(theirs.fileno()))
                self._process = subprocess.Popen(
                    [sys.executable, "-c", _PROGRAM, *words], pass_fds=[theirs.fileno()]
                )
            else:
                self._process = multiprocessing.get_context(method).Process(  # type: ignore[attr-defined]  # all have it
                    target=play, args=(part, os.fspath(runtime_dir), name, theirs)
                )
                assert isinstance(self._process, BaseProcess)
                self._process.start()
        self.hear("begins")

    def hear(self, expected: str) -> None:
        """Wait until the process reports its progress."""
        assert self.link.recv(100).decode() == expected

    def go_on(self) -> None:
        self.link.send(b"go on")

    def kill(self) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._wait()

    def close(self) -> None:
        """Kill the process if it still runs, and close the socket."""
        self.link.close()
        self._process.kill()
        self._wait()
        if isinstance(self._process, BaseProcess):
            self._process.close()

    def _wait(self) -> None:
        if isinstance(self._process, BaseProcess):
            self._process.join()
        else:
            self._process.wait()


def play(part: str, runtime_dir: str, name: str, link: socket.socket) -> None:
    """The process's role: `take`, `receive`, `offer` or `send` a token, and what follows."""
    with link, blocking.connect(runtime_dir) as allocator:
        link.send(b"begins")
        match part:
            case "pause":
                signal.pause()
                return
            case "take":
                answer = participate(runtime_dir, _told(link, allocator.take(name)).detach())
            case "receive":
                link.recv(100)
                token, data = blocking.BufferCollectionToken.receive(link)
                assert data == name.encode()
                answer = participate(runtime_dir, _told(link, token).detach())
            case _:
                root = allocator.allocate_shared_collection()
                if part == "offer":
                    allocator.offer(name, root.duplicate())
                else:
                    root.duplicate().send(link, name.encode())
                answer = participate(runtime_dir, _told(link, root).detach())
        link.send(answer.encode())


def _told(
    link: socket.socket, token: blocking.BufferCollectionToken
) -> blocking.BufferCollectionToken:
    """Report that there is a token, and wait for the command to continue."""
    link.send(b"passed")
    link.recv(100)
    return token
