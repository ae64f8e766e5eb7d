"""Redraw the pictures of the pages: `python -m docs.tools.pictures [DIRECTORY]`.

Each page runs against a daemon of its own. `sysmemctl graph` draws what that daemon holds at each picture's place.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from pathlib import Path

from sysmem._inspector import Inspector
from sysmem.sysmemctl import _graph as graph
from sysmem.sysmemctl._source import select
from sysmem.testing import sysmemd

from .blocks import run, steps

DOCS = Path(__file__).parents[1]
IMAGES = DOCS / "images" / "concepts"


def draw(path: Path, collection: str) -> None:
    """Draw a collection, without the numbers of processes and clients, and the order of processes."""
    with Inspector.connect() as inspector:
        snapshot = inspector.snapshot()
    drawing = graph.graph([select(snapshot, collection)], snapshot["daemon"]["pid"])
    for box in drawing.boxes.values():
        box.lines = [re.sub(r"pid \d+| \(\d{3,}\)$", "", line) for line in box.lines]
    order = list(drawing.boxes)
    drawing.edges.sort(key=lambda edge: (order.index(edge[0]), order.index(edge[1])))
    path.write_bytes(graph.svg(drawing))


def main(directory: Path) -> None:
    """Draw all pictures into a directory."""
    directory.mkdir(parents=True, exist_ok=True)
    for page in sorted(DOCS.rglob("*.md")):
        if any(step.language == "picture" for step in steps(page)):
            with sysmemd() as daemon, tempfile.TemporaryDirectory() as temporary:
                os.environ["SYSMEM_RUNTIME_DIR"] = str(daemon.runtime_dir)
                with contextlib.chdir(temporary):
                    run(page, lambda name, collection: draw(directory / f"{name}.svg", collection))


if __name__ == "__main__":
    main(Path(sys.argv[1]).absolute() if sys.argv[1:] else IMAGES)
