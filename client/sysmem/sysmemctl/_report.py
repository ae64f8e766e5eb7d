"""`sysmemctl report`: a report on one self-contained page."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ._look import end, explained, explicable
from ._page import render
from ._recording import Recording, header, read
from ._source import Data, inspector
from ._story import Stories
from ._text import count, remark
from ._trouble import Trouble


def run(options: argparse.Namespace) -> int:
    """Write the page for a capture or a running daemon."""
    recording = _live(options) if options.file is None else read(options.file)
    try:
        stories = Stories(recording)
        page = render(recording, stories, live=options.file is None)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise Trouble(
            f"{options.file} does not have the format of docs/capture.md: {error!r}"
        ) from error
    output: Path = options.output
    # Only its owner can read it, as with a capture, because it contains what every client sent.
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(page)
    remark(f"{output} shows {count(len(stories.collections), 'collection')}")
    return 0


def _live(options: argparse.Namespace) -> Recording:
    """Return a running daemon's state as a capture that contains only the events that the daemon remembers."""
    with inspector(options) as connected:
        snapshot = connected.snapshot(timeout=options.timeout)
        ended = [
            {"event": "ended", "at": one["ended"], "collection": one["id"], **one}
            for one in reversed(snapshot["ended"])
        ]
        wanted = dict.fromkeys(explicable(snapshot, {one["id"] for one in ended}))
        answers = [explained(connected, id, options.timeout) for id in wanted]
    events: list[Data] = [*ended, *filter(None, answers)]
    return Recording(header(snapshot), events, end("asked", snapshot))
