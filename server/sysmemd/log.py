"""The log: structlog to stderr, one event a line, as console text or JSON.

The daemon serves from one thread, so a reader of stderr that is slow, or stopped, must not stop it. Lines therefore go
through a bounded queue to a thread of their own; lines that don't fit are dropped and counted.
"""

from __future__ import annotations

import queue
import sys
import threading
from typing import Any, TextIO, cast

import structlog

from .config import LogFormat, LogLevel
from .ports import Log

#: Lines that wait for a reader of stderr. Some megabytes at the most.
MAX_WAITING_LINES = 10_000
#: How long leaving the daemon may wait for the last lines, in seconds.
FLUSH_SECONDS = 2.0


class LineWriter:
    """A text stream whose writes never block: a thread passes the lines on."""

    def __init__(self, stream: TextIO, max_waiting: int = MAX_WAITING_LINES) -> None:
        self._stream = stream
        self._queue: queue.Queue[str | None] = queue.Queue(max_waiting)
        self._dropped = 0
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    def write(self, text: str) -> int:
        """Queue a line, or count it as dropped when the queue is full."""
        try:
            self._queue.put_nowait(text)
        except queue.Full:
            self._dropped += 1
        return len(text)

    def flush(self) -> None:
        """Nothing to do: the thread flushes."""

    def close(self) -> None:
        """Write what is queued and end; gives up after :data:`FLUSH_SECONDS` when nobody reads."""
        try:
            self._queue.put(None, timeout=FLUSH_SECONDS)
        except queue.Full:
            return
        self._thread.join(FLUSH_SECONDS)

    def _run(self) -> None:
        while (text := self._queue.get()) is not None:
            try:
                if self._dropped:
                    dropped, self._dropped = self._dropped, 0
                    self._stream.write(f"{dropped} log lines were dropped: nobody read them\n")
                self._stream.write(text)
                if self._queue.empty():
                    self._stream.flush()
            except (OSError, ValueError):
                continue  # stderr is gone; there is nowhere to say so


def configure(
    form: LogFormat, level: LogLevel, stream: TextIO | None = None
) -> tuple[Log, LineWriter]:
    """Make the daemon's logger and the writer behind it, which the caller closes last."""
    stream = sys.stderr if stream is None else stream
    writer = LineWriter(stream)
    processors: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    if form == "json":
        processors.append(structlog.processors.JSONRenderer(default=str, ensure_ascii=False))
    else:
        processors.append(structlog.dev.ConsoleRenderer(colors=stream.isatty()))
    logger = structlog.wrap_logger(
        structlog.WriteLoggerFactory(file=cast("TextIO", writer))(),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        context_class=dict,
    )
    return cast("Log", logger.bind()), writer
