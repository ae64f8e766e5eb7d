"""Another process of a test, at the other end of a socket."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

from .closes import ClosesWithBlock


class Companion(ClosesWithBlock):
    """A process that a socket controls. Its last argument is the number of the descriptor of its end."""

    def __init__(self, *command: str, patience: float, directory: Path | None = None) -> None:
        """Start the process. `patience` is the number of seconds that the test waits for an answer."""
        self.link, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.link.settimeout(patience)
        with theirs:
            self.process = subprocess.Popen(
                [*command, str(theirs.fileno())], cwd=directory, pass_fds=[theirs.fileno()]
            )

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def close(self) -> None:
        """Close the socket, and kill the process if it still runs."""
        self.link.close()
        self.process.kill()
        self.process.wait()
