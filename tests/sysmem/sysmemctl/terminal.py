"""Programs on a pseudo-terminal of this many columns, or on a pipe, and their output."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

PATIENCE = 30.0
#: Control sequences: colours and similar ones, and those that end with BEL or ST.
CONTROLS = re.compile(r"\x1b(?:\[[0-9;:?<=>]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_=>])")
#: The control sequences that set a colour.
COLOURS = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])(?:;\d+)*m")


@dataclass
class Terminal:
    """A program on a terminal."""

    process: subprocess.Popen[bytes]
    #: The descriptors of the terminal's master end and of the program's end.
    fd: int
    side: int
    written: str = ""
    _bytes: bytearray = field(default_factory=bytearray)

    def read(self, until: Callable[[str], bool] = lambda _: False) -> str:
        """Read until `until` accepts the output, or the program has ended. Return all of the output."""
        end = time.monotonic() + PATIENCE
        gone = os.pidfd_open(self.process.pid)
        try:
            while not until(self.written):
                assert time.monotonic() < end, self.written
                ready, _, _ = select.select([self.fd, gone], [], [], PATIENCE)
                if self.fd in ready:
                    self._bytes += os.read(self.fd, 65536)
                    self.written = self._bytes.decode(errors="replace")
                elif gone in ready:
                    break
        finally:
            os.close(gone)
        return self.written

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self.fd, keys.encode())


@contextlib.contextmanager
def terminal(
    command: Sequence[str], columns: int, environment: Mapping[str, str]
) -> Iterator[Terminal]:
    """Run a program on a terminal."""
    fd, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    try:
        with subprocess.Popen(
            command, stdin=side, stdout=side, stderr=side, env=environment, start_new_session=True
        ) as process:
            try:
                yield Terminal(process, fd, side)
            finally:
                process.kill()
    finally:
        os.close(fd)
        os.close(side)
