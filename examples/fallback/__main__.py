"""Two failures that a pipeline survives: the first choice fails, and a participant dies.

    python examples/fallback [--runtime-dir DIR]

Fallback: a group offers a plane of the display first, and a compositor second. The plane does not support the encoder's
format, so the compositor gets the buffers. Replacement: the camera is dispensable. It is killed, and another one is
attached to the same buffers; the others notice nothing.

This is the initiator, which starts the others (participant.py) as processes and checks what they say. The exit status
is 0 only if everything happened as described.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import sysmem
from sysmem import blocking

PARTICIPANT = Path(__file__).with_name("participant.py")
PATIENCE = 40  # seconds for the whole story


class FailedError(Exception):
    """Something did not happen as described."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="fallback")
    parser.add_argument("--runtime-dir", metavar="DIR", help="of a running daemon, to use that")
    arguments = parser.parse_args()
    signal.signal(signal.SIGALRM, too_late)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that with-blocks end
    signal.alarm(PATIENCE)
    try:
        with contextlib.ExitStack() as stack:
            directory = arguments.runtime_dir or stack.enter_context(own_daemon())
            allocator = stack.enter_context(blocking.connect(directory, name="initiator"))
            run(allocator, directory)
    except (FailedError, sysmem.DaemonUnavailableError, sysmem.PeerClosedError) as error:
        print(f"fallback: {error}", file=sys.stderr)
        return 1
    return 0


def run(allocator: blocking.Allocator, directory: str) -> None:
    with contextlib.ExitStack() as stack:

        def start(name: str, token: blocking.BufferCollectionToken) -> Participant:
            return stack.enter_context(started(name, allocator, token, directory))

        # --- One collection for the camera, the encoder, and either the plane or the compositor ---------------------

        tell("A first choice that fails")
        tell("initiator", "a collection for camera, encoder, and a group: plane, else compositor")
        root = allocator.allocate_shared_collection()
        camera_token, encoder_token = root.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * 2)

        # Exactly one child of a group takes part: the first one with which the participants agree.
        group = root.create_buffer_collection_token_group()
        plane_token, compositor_token = group.create_children_sync([sysmem.Rights.SAME_RIGHTS] * 2)
        group.all_children_present()
        group.release()

        # After the allocation the camera may fail without failing the others.
        camera_token.set_dispensable()
        # Closes when the camera's place in the collection is given up, with the buffers that were counted for it.
        camera_gone = stack.enter_context(camera_token.attach_node_tracking())

        # The initiator keeps a place of its own. It uses no buffers, so it has no constraints.
        collection = stack.enter_context(allocator.bind_shared_collection(root))
        collection.set_constraints()

        camera = start("camera", camera_token)
        encoder = start("encoder", encoder_token)
        plane = start("plane", plane_token)
        compositor = start("compositor", compositor_token)

        for participant in (camera, encoder, compositor):
            participant.hear("got 5 buffers of NV12")
        plane.hear("no buffers: my channel was closed")
        plane.end()

        # --- The camera dies, and another one takes its place --------------------------------------------------------

        tell("A participant that dies")
        written = camera.ask("write 0", "wrote")
        for reader in (encoder, compositor):
            reader.ask("read 0", written.replace("wrote", "read"))

        killed = time.monotonic()
        camera.process.kill()
        # Wait until its buffers are free again: before that a new camera would not find enough of them.
        camera_gone.wait_closed()
        delay = (time.monotonic() - killed) * 1000
        tell("initiator", f"killed the camera; its place was free {delay:.0f} ms later")
        encoder.ask("read 0", written.replace("wrote", "read"))

        # An attached token gets the same buffers, or none if they do not suffice. In either case, and also if it fails
        # later, the others are not affected.
        tell("initiator", "attaches a token to its own place in the collection, for a new camera")
        new_camera = start("new camera", collection.attach_token())
        new_camera.hear("got 5 buffers of NV12")

        written = new_camera.ask("write 1", "wrote")
        for reader in (encoder, compositor):
            reader.ask("read 1", written.replace("wrote", "read"))
            reader.ask("look", "my channel is open, as it always was")

        for participant in (new_camera, encoder, compositor):
            participant.end()
        collection.release()


@dataclass
class Participant:
    """A process that prints a line for each of its events, and a line after each command."""

    name: str
    process: subprocess.Popen[str]

    def hear(self, expected: str) -> str:
        """Print its next line, and return it. Raises `FailedError` if the line does not begin as expected."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline().strip()
        tell(self.name, line or "(ended)")
        if not line.startswith(expected):
            raise FailedError(f"expected of the {self.name}: {expected}")
        return line

    def ask(self, command: str, expected: str) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{command}\n")
        self.process.stdin.flush()
        return self.hear(expected)

    def end(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        if self.process.wait() != 0:
            raise FailedError(f"the {self.name} ended with an error")


def tell(who: str, what: str = "") -> None:
    if what:
        short = re.sub(r"[0-9a-f]{64}", lambda digest: f"{digest[0][:12]}...", what)
        print(f"  {who:<12}{short}", flush=True)
    else:
        print(f"\x1b[1m{who}\x1b[0m" if sys.stdout.isatty() else who, flush=True)


def too_late(signal_number: int, frame: FrameType | None) -> None:
    raise FailedError(f"the story isn't over after {PATIENCE} seconds")


# --- processes --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def started(
    name: str,
    allocator: blocking.Allocator,
    token: blocking.BufferCollectionToken,
    directory: str,
) -> Iterator[Participant]:
    """Run a participant, which takes the token. The process has ended after the with-block."""
    role = name.split()[-1]
    offered_as = f"fallback {os.getpid()} {name}"  # several examples may use one daemon
    with subprocess.Popen(
        [sys.executable, str(PARTICIPANT), role, "--token", offered_as],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SYSMEM_RUNTIME_DIR": directory},
        process_group=0,  # an interrupt from the keyboard is for the initiator only
    ) as process:
        try:
            participant = Participant(name, process)
            participant.hear("can do")
            # From now on the participant alone has the token, so the daemon notices if it dies.
            allocator.offer(offered_as, token)
            yield participant
        finally:
            process.kill()


@contextlib.contextmanager
def own_daemon() -> Iterator[str]:
    """A daemon for this run alone, in a directory of its own."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sysmem-"))
        ready = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        ready.bind(f"{directory}/ready")
        daemon = subprocess.Popen(
            [sys.executable, "-m", "sysmemd", "--runtime-dir", directory, "--log-level", "error"],
            env={**os.environ, "NOTIFY_SOCKET": f"{directory}/ready"},
            process_group=0,
        )
        stack.callback(daemon.wait)
        stack.callback(daemon.terminate)
        ready.recv(64)
        yield directory


if __name__ == "__main__":
    sys.exit(main())
