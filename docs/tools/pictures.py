"""Redraw the pictures of the pages: `python -m docs.tools.pictures`.

Each page runs against a daemon of its own, and `sysmemctl graph` draws what that daemon holds at each picture's place.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
from pathlib import Path

from sysmem.sysmemctl import main as sysmemctl
from sysmem.testing import sysmemd

from .blocks import run, steps

DOCS = Path(__file__).parents[1]
IMAGES = DOCS / "images" / "concepts"


def draw(name: str, collection: str) -> None:
    """Draw a collection into `images/concepts`. Numbers that differ each time are left out."""
    path = IMAGES / f"{name}.svg"
    status = sysmemctl(["graph", collection, "-o", str(path)])
    assert status == 0, name
    text = re.sub(r">pid \d+<", "><", path.read_text())
    path.write_text(re.sub(r" \(\d{3,}\)<", "<", text))


def main() -> None:
    """Draw all pictures."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    for page in sorted(DOCS.rglob("*.md")):
        if any(step.language == "picture" for step in steps(page)):
            with sysmemd() as daemon, tempfile.TemporaryDirectory() as directory:
                os.environ["SYSMEM_RUNTIME_DIR"] = str(daemon.runtime_dir)
                with contextlib.chdir(directory):
                    run(page, draw)


if __name__ == "__main__":
    main()
