"""A camera, an encoder and a display agree on one set of buffers, and use it.

    python examples/camera_pipeline [--video FILE | --image FILE] [--out DIR] [--runtime-dir DIR]

This is the initiator. It makes a token for each of three processes, connects them, and checks the messages that they
send. In the end it kills one process and sees whether the others notice. camera.py, encoder.py and display.py show
what a participant does with its token; read them next. The run leaves a video file that came through the buffers, a
contact sheet, and a page that shows both. The exit status is 0 only if everything was as it should be.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import tempfile
import time
from pathlib import Path

import clip
import compare
import contact_sheet
import page
import report
import sysmem
from arguments import Arguments, UnusableError, parse_arguments
from contact_sheet import Picture
from processes import PATIENCE, FailedError, Participant, listen, own_daemon, started
from sysmem import blocking
from sysmem.blocking import frames

SHOWN = range(0, clip.FRAMES, clip.FRAMES // 8)  # the display saves pictures of these frames
DECODED = range(clip.FRAMES // 8, clip.FRAMES, clip.FRAMES // 4)  # the file's frames with a picture


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that with-blocks end
    try:
        arguments = parse_arguments()
        with contextlib.ExitStack() as stack:
            pictures = stack.enter_context(tempfile.TemporaryDirectory(prefix="sysmem-pictures-"))
            directory = arguments.runtime_dir or stack.enter_context(own_daemon(arguments.out))
            Story(arguments, directory, Path(pictures)).run()
    except (
        FailedError,
        UnusableError,
        sysmem.DaemonUnavailableError,
        sysmem.PeerClosedError,
        sysmem.SysmemError,
    ) as error:
        progress(None)
        print(f"camera_pipeline: {error}", file=sys.stderr)
        return 1
    return 0


class Story:
    """The run of the example. It prints what happens."""

    def __init__(self, arguments: Arguments, directory: str, pictures: Path) -> None:
        self.arguments = arguments
        self.directory = directory
        self.pictures = pictures
        self.told: dict[str, str] = {}
        self.psnr: list[float] = []

    def run(self) -> None:
        """Run the example. Raises `FailedError` if something isn't as it should be."""
        video = self.video()
        encoded, written = self.arguments.out / "encoded.mp4", self.pictures / "written.nv12"
        with contextlib.ExitStack() as stack:
            collection, everybody = self.start(stack, video, encoded, written)
            pids = ", ".join(f"{p.name} {p.process.pid}" for p in everybody)
            self.tell("Three processes", pids)
            camera, encoder, display = everybody
            # Closes when no process has any of the buffers any more.
            buffers_gone = stack.enter_context(collection.attach_lifetime_tracking())
            listen(everybody, until=lambda: all(p.got for p in everybody))
            columns = agreement(everybody)
            count = len(camera.got["inodes"])
            self.tell("One collection", f"{count} buffers, the same memory in all three processes")
            print(*report.table(columns), sep="\n")

            begun = time.monotonic()
            listen(everybody, until=lambda: streamed(encoder, display))
            sent = len(encoder.seen)
            check_frames(sent, encoder, display)
            rate = sent / (time.monotonic() - begun)
            self.tell(
                f"{sent} frames", f"{rate:.0f} a second; encoder and display found each byte intact"
            )
            self.check_file(encoder, encoded, written)
            self.kill(encoder, collection, [camera, display])
            if not buffers_gone.wait_closed(PATIENCE):
                raise FailedError("there still are buffers, though nobody uses them")
            self.tell("Everybody gone", f"the memory of all {count} buffers is free again")
            self.show(display, columns, sent, count)

    def video(self) -> Path:
        """Return the video that the camera plays."""
        if self.arguments.video is not None:
            return self.arguments.video
        assert self.arguments.image is not None
        progress(f"making a clip of {self.arguments.image.name} …")
        clip.render(self.arguments.image, self.pictures / "clip.mp4")
        return self.pictures / "clip.mp4"

    def start(
        self, stack: contextlib.ExitStack, video: Path, encoded: Path, written: Path
    ) -> tuple[blocking.BufferCollection, list[Participant]]:
        """Start a collection and three processes. Each has a token; the camera has a connection to both others.

        Returns:
            The initiator's own place in the collection, and the processes.
        """
        keep = ["--pictures", str(self.pictures), "--keep", *map(str, SHOWN)]
        with (
            blocking.connect(self.directory, name="initiator") as allocator,
            allocator.allocate_shared_collection() as root,
            contextlib.ExitStack() as given,
        ):
            root.set_name(1, "camera_pipeline")
            # The camera gets the rights that its usage needs. The others may never write, whatever their usage is.
            read_only = sysmem.Rights.READ | sysmem.Rights.MAP
            tokens = root.duplicate_sync([sysmem.Rights.SAME_RIGHTS, read_only, read_only])
            ends = [end for _ in range(2) for end in frames.pair()]
            # The processes inherit them. Ours are closed then, so that the daemon notices if one of them dies.
            for token in tokens:
                given.callback(token.close)
            for end in ends:
                given.callback(end.close)
            camera_ends, readers_ends = ends[0::2], ends[1::2]
            scripts = {
                "camera": (camera_ends, ["--video", str(video), "--written", str(written)]),
                "encoder": (readers_ends[:1], ["--file", str(encoded)]),
                "display": (readers_ends[1:], keep),
            }
            participants = [
                stack.enter_context(started(name, self.directory, token, theirs, *options))
                for token, (name, (theirs, options)) in zip(tokens, scripts.items(), strict=True)
            ]
            # The initiator doesn't use buffers, so it has no constraints. It stays to see when the collection fails.
            collection = stack.enter_context(allocator.bind_shared_collection(root))
            collection.set_constraints()
        return collection, participants

    def check_file(self, encoder: Participant, encoded: Path, written: Path) -> None:
        """Compare the file that the encoder wrote with what the camera wrote."""
        progress("decoding the file again …")
        try:
            found = compare.compare(encoded, written, {n: self.decoded(n) for n in DECODED})
        except ValueError as error:
            raise FailedError(str(error)) from error
        if found.worst < compare.GOOD:
            raise FailedError(f"the file is {found.worst:.1f} dB from what the camera wrote")
        size = encoder.encoded["bytes"] / 1000
        self.tell("The file", f"{encoded}, {size:.0f} kB of {encoder.encoded['codec']}")
        self.tell(
            "Its frames",
            f"{found.mean:.1f} dB from what the camera wrote, none worse than {found.worst:.1f}",
        )
        self.psnr = found.psnr

    def kill(
        self,
        encoder: Participant,
        collection: blocking.BufferCollection,
        survivors: list[Participant],
    ) -> None:
        """Kill the encoder, and check that the others notice."""
        killed_at = time.monotonic_ns()
        encoder.process.kill()
        if not collection.wait_closed(PATIENCE):
            raise FailedError("the initiator didn't notice that the encoder was killed")
        noticed = {"initiator": time.monotonic_ns()}
        listen(survivors, until=lambda: all(p.noticed for p in survivors))
        noticed |= {p.name: p.noticed["at"] for p in survivors}
        delays = [f"{name} {(at - killed_at) / 1e6:.1f} ms" for name, at in noticed.items()]
        self.tell("Encoder killed", f"noticed by {', '.join(delays)} later")
        if not survivors[-1].noticed["screen_intact"]:
            raise FailedError("the frame on the display changed when the encoder was killed")
        for participant in survivors:
            if participant.process.wait(PATIENCE) != 0:
                raise FailedError(f"the {participant.name} ended with an error")

    def show(
        self, display: Participant, columns: dict[str, report.Column], sent: int, count: int
    ) -> None:
        """Draw the contact sheet and write the page."""
        source = self.arguments.video or self.arguments.image
        assert source is not None
        title = "A camera, an encoder and a display share buffers"
        sheet, index = self.arguments.out / "contact_sheet.png", self.arguments.out / "index.html"
        contact_sheet.draw(
            title=title,
            subtitle=f"{source.name}  ·  {sent} frames through {count} buffers, "
            f"each frame written once, read twice, never copied, and checked byte for byte",
            shown=[self.shown_picture(display, number) for number in SHOWN if number < sent],
            encoded=[
                Picture(self.decoded(n), f"frame {n}", f"{self.psnr[n]:.1f} dB")
                for n in DECODED
                if n < sent
            ],
            memory=Picture(
                self.pictures / "memory.png",
                "luma above, Cb and Cr below, padding on the right",
                "intact after the kill",
            ),
            columns=columns,
            file=sheet,
        )
        page.write(index, title=title, lines=self.told, columns=columns)
        self.tell("Contact sheet", str(sheet))
        self.tell("All on a page", str(index))

    def shown_picture(self, display: Participant, number: int) -> Picture:
        seen = display.seen[number]
        caption = f"buffer {seen['buffer']}   SHA-256 {seen['sha256'][:8]}…"
        return Picture(self.pictures / f"{number}.png", caption, "as written")

    def decoded(self, number: int) -> Path:
        """Return the path of the picture of a decoded frame of the file."""
        return self.pictures / f"decoded-{number}.png"

    def tell(self, what: str, text: str) -> None:
        progress(None)
        self.told[what] = text
        if sys.stdout.isatty():
            what = f"\x1b[1m{what}\x1b[0m{' ' * (17 - len(what))}"
        print(f"{what:<17}{text}", flush=True)


def streamed(encoder: Participant, display: Participant) -> bool:
    """Return whether the file is written and the display has seen as many frames. Shows the progress."""
    progress(f"{len(encoder.seen)} of {clip.FRAMES} frames …")
    return bool(encoder.encoded) and len(display.seen) >= len(encoder.seen)


def agreement(participants: list[Participant]) -> dict[str, report.Column]:
    """Return the columns of the table. Raises `FailedError` unless all got the same settings and the same memory."""
    first = participants[0].got
    for participant in participants:
        for what in ("negotiated", "inodes"):
            if participant.got[what] != first[what]:
                raise FailedError(f"the {participant.name} got other {what} than the camera")
    columns = {p.name: {**p.asked, **p.got["column"]} for p in participants}
    return {**columns, "negotiated": first["negotiated"]}


def check_frames(count: int, *readers: Participant) -> None:
    """Raise `FailedError` unless each reader saw each frame, in order and as it was written."""
    if not count:
        raise FailedError("the camera sent no frame")
    for reader in readers:
        if list(reader.seen) != list(range(count)):
            raise FailedError(f"the {reader.name} missed a frame")
        for number, message in reader.seen.items():
            if not message["intact"]:
                raise FailedError(f"the {reader.name} read other bytes in frame {number}")


def progress(text: str | None) -> None:
    """Show the progress, on a terminal only. None removes it."""
    if sys.stdout.isatty():
        print(f"\r\x1b[K{text or ''}", end="", flush=True)


if __name__ == "__main__":
    sys.exit(main())
