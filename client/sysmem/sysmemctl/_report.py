"""`sysmemctl report`: what happened, as one page that needs nothing but itself."""

from __future__ import annotations

import argparse
from pathlib import Path

from ._look import end, explained, explicable
from ._page import render
from ._recording import Recording, header, read
from ._source import Data, inspector
from ._story import Stories
from ._text import count, remark
from ._trouble import Trouble


def run(options: argparse.Namespace) -> int:
    """Write the page of a capture, or of a running daemon."""
    recording = _live(options) if options.file is None else read(options.file)
    try:
        stories = Stories(recording)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Trouble(f"{options.file} isn't as docs/capture.md says: {error!r}") from error
    page = render(recording, stories, live=options.file is None)
    output: Path = options.output
    output.write_text(page, encoding="utf-8")
    remark(f"{output} shows {count(len(stories.collections), 'collection')}")
    return 0


def _live(options: argparse.Namespace) -> Recording:
    """Return what a daemon holds as a capture in which nothing happens but what it remembers."""
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
