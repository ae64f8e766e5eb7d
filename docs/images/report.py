"""Draw the picture of a report that the README shows: `make report-image`; it needs the program chromium.

Three processes negotiate with a daemon of their own and are refused, while `sysmemctl capture` records it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import sysmem
from sysmem import blocking
from sysmem.sysmemctl import main as sysmemctl

WIDTH, HEIGHT = 1200, 1000
PARTICIPANTS = {
    "camera": sysmem.constraints("NV12 1920x1080", cpu="write often", hold=2, align=64),
    "encoder": sysmem.constraints("NV12", cpu="read", hold=1),
    "display": sysmem.constraints("B8G8R8A8, R8G8B8A8", cpu="read often", hold=1),
}


def take_part(name: str, token: int) -> None:
    with (
        blocking.connect(name=name, id=os.getpid()) as allocator,
        allocator.bind_shared_collection(
            blocking.BufferCollectionToken.from_fd(token)
        ) as collection,
    ):
        time.sleep({"camera": 0.01, "encoder": 0.4, "display": 1.2}[name])
        collection.set_constraints(PARTICIPANTS[name])
        try:
            collection.wait_for_all_buffers_allocated().close()
        except (sysmem.SysmemError, sysmem.PeerClosedError) as error:
            print(f"{name}: {error}")


def negotiate() -> None:
    """Start a process for each participant, and wait for all of them."""
    with blocking.connect(name="launcher", id=os.getpid()) as allocator:
        first = allocator.allocate_shared_collection()
        first.set_name(1, "viewfinder")
        tokens = first.duplicate_sync([sysmem.Rights.SAME_RIGHTS] * len(PARTICIPANTS))
        first.release()
        processes = []
        for name, token in zip(PARTICIPANTS, tokens, strict=True):
            fd = token.detach()
            command = [sys.executable, __file__, name, str(fd)]
            processes.append(subprocess.Popen(command, pass_fds=[fd]))
            os.close(fd)
        for process in processes:
            process.wait()


def draw(picture: Path) -> None:
    """Negotiate, capture, and draw the page."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ["SYSMEM_RUNTIME_DIR"] = directory
        capture, page = Path(directory, "capture.jsonl"), Path(directory, "report.html")
        daemon = subprocess.Popen([sys.executable, "-m", "sysmemd"], stderr=subprocess.DEVNULL)
        blocking.connect(wait=60).close()
        command = [sys.executable, "-m", "sysmem.sysmemctl", "capture", str(capture)]
        with subprocess.Popen([*command, "--seconds", "6"]) as recorder:
            while not (capture.exists() and capture.stat().st_size):
                time.sleep(0.1)
            negotiate()
            recorder.wait()
        daemon.terminate()
        daemon.wait()
        sysmemctl(["report", str(capture), "-o", str(page)])
        browser = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        subprocess.run(
            [
                *browser,
                "--hide-scrollbars",
                "--blink-settings=preferredColorScheme=1",
                f"--user-data-dir={directory}/profile",
                f"--window-size={WIDTH},{HEIGHT}",
                f"--screenshot={picture}",
                page.as_uri(),
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )


def main(arguments: Sequence[str]) -> None:
    """Draw, or be one of the participants."""
    if arguments:
        take_part(arguments[0], int(arguments[1]))
    else:
        draw(Path(__file__).with_suffix(".png"))


if __name__ == "__main__":
    main(sys.argv[1:])
