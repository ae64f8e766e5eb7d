"""`sysmemctl trace`: each message that passes between clients and the daemon."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from collections.abc import Callable

from .. import _traffic
from ._source import Data, happening, inspector, say_lost, select
from ._text import console


def run(options: argparse.Namespace) -> int:
    """Print messages until the user interrupts, or the time is over."""
    show = _show_json if options.json else _shower()
    with inspector(options) as connected:
        only = None
        if options.collection is not None:
            data = connected.snapshot(timeout=options.timeout)
            only = select(data, options.collection)["id"]
        with (
            contextlib.suppress(KeyboardInterrupt),
            connected.watch(
                traffic=True,
                bodies=options.bodies,
                buffer_collection_id=only,
                timeout=options.timeout,
            ) as events,
        ):
            for event in happening(events, options.seconds, timeout=options.timeout):
                if event["event"] == "lost":
                    say_lost(event)
                if event["event"] in ("message", "lost"):
                    show(event)
    return 0


def _show_json(event: Data) -> None:
    print(json.dumps(event), flush=True)


def _shower() -> Callable[[Data], None]:
    """Return the function that prints a message: fitted to a terminal, or as one line of any length."""
    if not (sys.stdout.isatty() or "COLUMNS" in os.environ):
        return lambda event: _show(event, lambda text: print(text, flush=True))
    out = console()
    from rich.text import Text

    def fitted(text: str) -> None:
        first, *rest = Text(text).wrap(out, out.width - len(_INDENT))
        out.print(first)
        for more in rest:
            out.print(Text(_INDENT) + more)

    return lambda event: _show(event, fitted)


_INDENT = "    "


def _show(event: Data, write: Callable[[str], None]) -> None:
    if event["event"] == "message":
        write(_traffic.line(event))
        said = _traffic.body(event)
        if said is not None:
            write(f"{_INDENT}{said}")
