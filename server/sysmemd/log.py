"""The log: structlog to stderr, as console text or JSON: one event a line, but for blocks of text on the console.

The daemon serves from one thread, so a reader of stderr that is slow, or stopped, must not stop it. Lines therefore go
through a bounded queue to a thread of their own; lines that don't fit are dropped and counted.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO, cast

import structlog
from structlog.dev import ConsoleRenderer, plain_traceback
from structlog.processors import JSONRenderer, TimeStamper, add_log_level, format_exc_info
from structlog.typing import EventDict, Processor

from .config import LogFormat, LogLevel
from .ports import Log
from .text import Block, printable

#: Characters of lines that wait for a reader of stderr.
MAX_WAITING = 4 * 1024 * 1024
#: How long leaving the daemon may wait for the last lines, in seconds.
FLUSH_SECONDS = 2.0

_STDERR = 2


class LineWriter:
    """A text stream whose writes never block: a thread passes the lines on to a descriptor.

    To a descriptor and not to `sys.stderr`: the interpreter would wait for a write that hangs there when it exits.
    """

    def __init__(self, fd: int, say_dropped: Callable[[int], str], max_waiting: int) -> None:
        """Write to `fd`, which stays the caller's; at most `max_waiting` characters wait.

        `say_dropped` makes the line about so many that were dropped.
        """
        self._fd = fd
        self._say_dropped = say_dropped
        self._max_waiting = max_waiting
        #: Guards all that follows, and tells that it has changed.
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._waiting = 0
        self._dropped = 0
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Queue a line, or count it as dropped when that would be too much."""
        with self._changed:
            if self._waiting + len(text) > self._max_waiting:
                self._dropped += 1
            else:
                self._lines.append(text)
                self._waiting += len(text)
                self._changed.notify()
        return len(text)

    def flush(self) -> None:
        """Nothing to do: the thread writes as soon as it can."""

    def close(self) -> None:
        """Write what is queued and end; gives up after :data:`FLUSH_SECONDS` when nobody reads."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(FLUSH_SECONDS)

    def _run(self) -> None:
        while (text := self._next()) is not None:
            self._pass_on(text)

    def _next(self) -> str | None:
        """The next line, waited for; None when there won't be one."""
        with self._changed:
            self._changed.wait_for(lambda: self._lines or self._closing)
            if self._dropped:
                dropped, self._dropped = self._dropped, 0
                return self._say_dropped(dropped)
            if not self._lines:
                return None
            text = self._lines.popleft()
            self._waiting -= len(text)
            return text

    def _pass_on(self, text: str) -> None:
        data = text.encode(errors="backslashreplace")
        while data:
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:  # somebody made it non-blocking, for all who share it
                select.select([], [self._fd], [])
            except OSError:
                return  # stderr is gone; there is nowhere to say so


class BlockRenderer:
    """Renders an event, and below it, indented, the blocks of text that it has; events begin with their time."""

    def __init__(self, render: Callable[[Any, str, EventDict], str]) -> None:
        """`render` makes a line of all else."""
        self._render = render

    def __call__(self, logger: Any, name: str, event: EventDict) -> str:
        """The event as text."""
        blocks = {key: value for key, value in event.items() if isinstance(value, Block)}
        for key in blocks:
            del event[key]
        lines = [self._render(logger, name, event)]
        for key, block in blocks.items():
            lines.append(f"    {key}:")
            lines += [f"      {printable(line)}".rstrip() for line in block.split("\n")]
        return "\n".join(lines)


def configure(form: LogFormat, level: LogLevel, fd: int = _STDERR) -> tuple[Log, LineWriter]:
    """Make the daemon's logger and the writer behind it, which the caller closes last; `fd` stays the caller's."""
    stamp = TimeStamper(fmt="iso", utc=True)
    processors: list[Processor]
    if form == "json":
        render_json = JSONRenderer(default=str, ensure_ascii=False)
        processors = [add_log_level, stamp, format_exc_info, render_json]
    else:
        # Texts as Python writes them: a client's mustn't look like another line, nor move the cursor.
        render_text = ConsoleRenderer(
            colors=os.isatty(fd), repr_native_str=True, exception_formatter=plain_traceback
        )
        processors = [add_log_level, stamp, BlockRenderer(render_text)]

    def say_dropped(count: int) -> str:
        line: Any = {"event": "log lines were dropped: nobody read them", "lines": count}
        for processor in processors:
            line = processor(None, "warning", line)
        return f"{line}\n"

    writer = LineWriter(fd, say_dropped, MAX_WAITING)
    logger = structlog.wrap_logger(
        structlog.WriteLogger(cast("TextIO", writer)),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
    )
    return cast("Log", logger.bind()), writer
