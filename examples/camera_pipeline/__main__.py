"""A camera, an encoder and a display agree on one set of buffers, and use it.

    python examples/camera_pipeline [--image FILE] [--out DIR] [--runtime-dir DIR]

This is the initiator: it makes a token for each of three processes, passes on what they tell each other, checks it, and
in the end kills one to see the others notice. What a participant does with its token is in camera.py, encoder.py and
display.py, best read next. The exit status is 0 only when everything was as it should be.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import contact_sheet
import report
import sysmem
from arguments import Arguments, UnusableError, parse_arguments
from contact_sheet import Picture
from link import Link, Message
from sysmem import blocking

HERE = Path(__file__).resolve().parent
FRAMES = 24
SHOWN = range(0, FRAMES, 3)  # of these frames the display leaves pictures
ENCODED = range(3, FRAMES, 6)  # and of these the encoder
PATIENCE = 30.0  # seconds without news after which something must be wrong


@dataclass
class Participant:
    """One of the processes, and what it has told so far."""

    name: str
    process: subprocess.Popen[bytes]
    link: Link
    asked: report.Column = field(default_factory=dict)
    got: Message = field(default_factory=dict)
    seen: dict[int, Message] = field(default_factory=dict)  # by the number of the frame
    noticed: Message = field(default_factory=dict)

    def receive(self) -> Message:
        """The next message; what concerns only the initiator is noted down."""
        try:
            message = self.link.receive()
        except EOFError:
            raise FailedError(f"the {self.name} ended early") from None
        match message["kind"]:
            case "asked":
                self.asked = message["column"]
            case "got":
                self.got = message
            case "seen":
                self.seen[message["number"]] = message
            case "noticed":
                self.noticed = message
        return message


class FailedError(Exception):
    """Something wasn't as it should be."""


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that with-blocks are left
    try:
        arguments = parse_arguments()
        with contextlib.ExitStack() as stack:
            directory = arguments.runtime_dir or stack.enter_context(own_daemon(arguments.out))
            pictures = stack.enter_context(tempfile.TemporaryDirectory(prefix="sysmem-pictures-"))
            run(arguments, directory, Path(pictures))
    except (
        FailedError,
        UnusableError,
        sysmem.DaemonUnavailableError,
        sysmem.PeerClosedError,
    ) as error:
        print(f"camera_pipeline: {error}", file=sys.stderr)
        return 1
    return 0


def run(arguments: Arguments, directory: str, pictures: Path) -> None:
    """The whole story, told while it happens. Raises `FailedError` when it is another one."""
    with contextlib.ExitStack() as stack:
        camera, encoder, display = everybody = [
            stack.enter_context(started(name, directory, *options))
            for name, options in (
                ("camera", ["--image", str(arguments.image), "--readers", "2"]),
                ("encoder", keep(pictures / "encoder", ENCODED)),
                ("display", keep(pictures / "display", SHOWN)),
            )
        ]
        tell("Three processes", ", ".join(f"{p.name} {p.process.pid}" for p in everybody))

        with blocking.connect(directory, name="initiator") as allocator:
            collection = stack.enter_context(shared_collection(allocator, everybody))
        # Closes when no process has any of the buffers any more.
        buffers_gone = stack.enter_context(collection.attach_lifetime_tracking())
        pump(everybody, until=lambda: all(p.got for p in everybody))
        columns = agreement(everybody)
        count = len(camera.got["inodes"])
        tell("One collection", f"{count} buffers, the same memory in all three processes")
        print(*report.table(columns), sep="\n")

        begun = time.monotonic()
        pump(everybody, until=lambda: all(FRAMES - 1 in p.seen for p in (encoder, display)))
        rate = FRAMES / (time.monotonic() - begun)
        check_frames(encoder, display)
        tell(f"{FRAMES} frames", f"{rate:.0f} a second; encoder and display found each byte intact")

        killed_at = time.monotonic_ns()
        encoder.process.kill()
        if not collection.wait_closed(PATIENCE):
            raise FailedError("the initiator didn't notice that the encoder was killed")
        noticed = {"initiator": time.monotonic_ns()}
        survivors = [camera, display]
        pump(survivors, until=lambda: all(p.noticed for p in survivors))
        noticed |= {p.name: p.noticed["at"] for p in survivors}
        delays = [f"{name} {(at - killed_at) / 1e6:.1f} ms" for name, at in noticed.items()]
        tell("Encoder killed", f"noticed by {', '.join(delays)} later")
        if not display.noticed["screen_intact"]:
            raise FailedError("the frame on the display changed when the encoder was killed")

        for participant in survivors:
            if participant.process.wait(PATIENCE) != 0:
                raise FailedError(f"the {participant.name} ended with an error")
        if not buffers_gone.wait_closed(PATIENCE):
            raise FailedError("there still are buffers, though nobody uses them")
        tell("Everybody gone", f"the memory of all {count} buffers is free again")

        file = arguments.out / "contact_sheet.png"
        contact_sheet.draw(
            title="A camera, an encoder and a display share buffers",
            subtitle=f"{arguments.image.name}  ·  {FRAMES} frames through {count} buffers, "
            f"each frame written once, read twice, never copied, and checked byte for byte",
            shown=[shown_picture(display, number, pictures) for number in SHOWN],
            encoded=[encoded_picture(encoder, number, pictures) for number in ENCODED],
            memory=Picture(
                pictures / "display" / "memory.png",
                "luma above, Cb and Cr below, padding on the right",
                "intact after the kill",
            ),
            columns=columns,
            file=file,
        )
        tell("Contact sheet", str(file))


def shared_collection(
    allocator: blocking.Allocator, participants: list[Participant]
) -> blocking.BufferCollection:
    """Start a collection and send everybody a token. Returned is the initiator's own place in it."""
    root = allocator.allocate_shared_collection()
    root.set_name(1, "camera_pipeline")
    # The camera may do with the buffers what its usage says, the others may never write, whatever theirs says.
    read_only = sysmem.Rights.READ | sysmem.Rights.MAP
    tokens = root.duplicate_sync([sysmem.Rights.SAME_RIGHTS, read_only, read_only])
    for participant, token in zip(participants, tokens, strict=True):
        # A token is a socket: what passes it on is SCM_RIGHTS, and after that only the receiver has it.
        fd = token.detach()
        participant.link.send("token", fd=fd)
        os.close(fd)
    # The initiator doesn't use buffers, so it has no constraints. It stays to see how things go.
    collection = allocator.bind_shared_collection(root)
    collection.set_constraints()
    return collection


def pump(participants: list[Participant], until: Callable[[], bool]) -> None:
    """Pass on messages: frames from the camera to the readers, returned buffers to the camera."""
    camera, *readers = participants
    while not until():
        talking = {p.link: p for p in participants if not p.noticed}  # that is their last message
        if not talking:
            raise FailedError("everybody saw the collection fail, too early")
        readable, _, _ = select.select(talking, [], [], PATIENCE)
        if not readable:
            raise FailedError(f"nothing happened for {PATIENCE:.0f} seconds")
        for participant in [talking[link] for link in readable]:
            message = participant.receive()
            with contextlib.suppress(ConnectionError):  # that one is gone is noticed when receiving
                if message["kind"] == "frame":
                    for reader in readers:
                        reader.link.send(**message)
                elif message["kind"] == "returned":
                    camera.link.send(**message)


def agreement(participants: list[Participant]) -> dict[str, report.Column]:
    """The columns of the table. Raises `FailedError` unless all got the same settings and the same memory."""
    first = participants[0].got
    for participant in participants:
        for what in ("negotiated", "inodes"):
            if participant.got[what] != first[what]:
                raise FailedError(f"the {participant.name} got other {what} than the camera")
    columns = {p.name: {**p.asked, **p.got["column"]} for p in participants}
    return {**columns, "negotiated": first["negotiated"]}


def check_frames(*readers: Participant) -> None:
    """Raise `FailedError` unless each reader saw each frame, in order and as it was written."""
    for reader in readers:
        if list(reader.seen)[:FRAMES] != list(range(FRAMES)):
            raise FailedError(f"the {reader.name} missed a frame")
        for number, message in reader.seen.items():
            if not message["intact"]:
                raise FailedError(f"the {reader.name} read other bytes in frame {number}")


def shown_picture(display: Participant, number: int, pictures: Path) -> Picture:
    seen = display.seen[number]
    caption = f"buffer {seen['buffer']}   SHA-256 {seen['sha256'][:8]}…"
    return Picture(pictures / "display" / f"{number}.png", caption, "as written")


def encoded_picture(encoder: Participant, number: int, pictures: Path) -> Picture:
    seen = encoder.seen[number]
    caption = f"buffer {seen['buffer']} minus buffer {encoder.seen[number - 1]['buffer']}"
    remark = f"{seen['bytes'] / 1000:.0f} kB compressed"
    return Picture(pictures / "encoder" / f"{number}.png", caption, remark)


def keep(directory: Path, numbers: range) -> list[str]:
    """Options of a reader: of which frames to leave pictures, and where."""
    directory.mkdir()
    return ["--pictures", str(directory), "--keep", *map(str, numbers)]


def tell(what: str, text: str) -> None:
    if sys.stdout.isatty():
        what = f"\x1b[1m{what}\x1b[0m{' ' * (17 - len(what))}"
    print(f"{what:<17}{text}", flush=True)


# --- processes --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def started(name: str, directory: str, *options: str) -> Iterator[Participant]:
    """Run a participant's script, with one end of a socketpair; it is gone after the with-block."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with contextlib.ExitStack() as stack:
        link = stack.enter_context(contextlib.closing(Link(ours)))
        with theirs:
            process = subprocess.Popen(
                [
                    sys.executable,
                    str(HERE / f"{name}.py"),
                    "--link",
                    str(theirs.fileno()),
                    *options,
                ],
                pass_fds=[theirs.fileno()],
                env={**os.environ, "SYSMEM_RUNTIME_DIR": directory},
                process_group=0,  # an interrupt from the keyboard is for the initiator only
            )
        stack.callback(process.wait)
        stack.callback(process.kill)
        yield Participant(name, process, link)


@contextlib.contextmanager
def own_daemon(out: Path) -> Iterator[str]:
    """A daemon for this run alone, in a directory of its own; its log is left in `out`."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="sysmem-"))
        log = stack.enter_context((out / "sysmemd.log").open("wb"))
        ready = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        ready.bind(f"{directory}/ready")
        ready.settimeout(PATIENCE)
        daemon = subprocess.Popen(
            [sys.executable, "-m", "sysmemd", "--runtime-dir", directory],
            stderr=log,
            env={**os.environ, "NOTIFY_SOCKET": f"{directory}/ready"},
            process_group=0,
        )
        stack.callback(daemon.wait)
        stack.callback(daemon.terminate)
        try:
            ready.recv(64)
        except TimeoutError:
            raise FailedError(f"the daemon doesn't start, see {log.name}") from None
        yield directory


if __name__ == "__main__":
    sys.exit(main())
