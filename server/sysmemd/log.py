"""The log: structlog to stderr, as console text or JSON, with one line for each event except blocks on the console.

The daemon serves from one thread, so a slow or stopped reader of stderr must not block it. Lines therefore go through a
bounded queue to a thread of their own. Lines that do not fit are dropped and counted.
"""

from __future__ import annotations

import json
import os
import select
import threading
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TextIO, cast

import structlog
from structlog.dev import ConsoleRenderer
from structlog.processors import JSONRenderer, TimeStamper, add_log_level, format_exc_info
from structlog.typing import EventDict, Processor

from .config import LogFormat, LogLevel
from .pause import giving_way
from .ports import Log
from .text import Block, printable
from .threads import start

#: The maximum number of characters in the queue.
MAX_WAITING = 4 * 1024 * 1024
#: The maximum time in seconds that the daemon's end waits for the last lines.
FLUSH_SECONDS = 2.0

_STDERR = 2
#: The order of levels, and their priorities in the journal (`syslog(3)`).
_RANKS = {"debug": 0, "info": 1, "warning": 2, "error": 3}
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3}


class LineWriter:
    """A text stream whose writes never block: a thread writes the lines to a descriptor.

    It does not use `sys.stderr`, because the interpreter's exit would wait for a blocked write there.
    """

    def __init__(self, fd: int, say_dropped: Callable[[int], str], max_waiting: int) -> None:
        """Write to `fd`, which the caller keeps. At most `max_waiting` characters are queued.

        `say_dropped` returns the line about a number of dropped lines. While no thread can be started, because the user
        or the control group has the maximum number, :meth:`write` itself writes as much as `fd` accepts.
        """
        self._fd = fd
        self._say_dropped = say_dropped
        self._max_waiting = max_waiting
        #: Guards all following attributes, and signals their changes.
        self._changed = threading.Condition()
        self._lines: deque[str] = deque()
        self._waiting = 0
        self._dropped = 0
        self._closing = False
        #: The rest of a line that was partly written without a thread.
        self._rest = b""
        self._is_running = False
        self._has_thread()

    def write(self, text: str) -> int:
        """Queue a line, or count it as dropped if the queue is full."""
        with self._changed:
            if self._waiting + len(text) > self._max_waiting:
                self._dropped += 1
            else:
                self._lines.append(text)
                self._waiting += len(text)
                self._changed.notify_all()
        if not self._has_thread():
            self._write_what_fits()
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes as soon as it can."""

    def close(self) -> None:
        """Write what is queued and end. Give up after :data:`FLUSH_SECONDS` if there is no reader."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
            has_thread = self._is_running
            self._changed.wait_for(lambda: not self._is_running, FLUSH_SECONDS)
        if not has_thread:
            self._write_what_fits()

    def _has_thread(self) -> bool:
        """Return whether there is a writing thread; start one if there is none yet."""
        if not self._is_running:
            self._is_running = True
            try:
                start(self._run)
            except RuntimeError:
                self._is_running = False
        return self._is_running

    def _write_what_fits(self) -> None:
        """Write as long as that does not block: a writable descriptor accepts PIPE_BUF bytes."""
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        while (self._rest or self._lines or self._dropped) and poll.poll(0):
            data = self._rest or _encode(self._next() or "")
            self._rest = data[self._write(data[: select.PIPE_BUF]) :]

    def _run(self) -> None:
        try:
            self._pass_on(self._rest)
            while (text := self._next()) is not None:
                self._pass_on(_encode(text))
        finally:
            with self._changed:
                self._is_running = False
                self._changed.notify_all()

    def _next(self) -> str | None:
        """Wait for the next line and return it; None at the end."""
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

    def _pass_on(self, data: bytes) -> None:
        while data:
            written = self._write(data)
            data = data[written:]
            if not written:
                select.select([], [self._fd], [])

    def _write(self, data: bytes) -> int:
        """Return how many bytes were written, or lost because stderr is closed and the loss cannot be reported."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:  # another process has made the shared description non-blocking
            return 0
        except OSError:
            return len(data)


def _encode(text: str) -> bytes:
    return text.encode(errors="backslashreplace")


def exception_block(logger: Any, name: str, event: EventDict) -> EventDict:
    """Turn a traceback into a block, because it may quote a client's text, which must not look like another event."""
    event = format_exc_info(logger, name, event)
    if "exception" in event:
        event["exception"] = Block(event["exception"])
    return event


class BlockRenderer:
    """Renders an event, and indented below it, the blocks of text in it. Events begin with their time."""

    def __init__(self, render: Callable[[Any, str, EventDict], str]) -> None:
        """`render` renders everything except blocks as one line."""
        self._render = render

    def __call__(self, logger: Any, name: str, event: EventDict) -> str:
        """Return the event as text."""
        blocks = {key: value for key, value in event.items() if isinstance(value, Block)}
        for key in blocks:
            del event[key]
        lines = [self._render(logger, name, event)]
        for key, block in blocks.items():
            lines.append(f"    {key}:")
            lines += [f"      {printable(line)}".rstrip() for line in giving_way(block.split("\n"))]
        return "\n".join(lines)


def to_json(event: Any, **options: Any) -> str:
    """Return an event as JSON in which every character that does not print visibly on one line is escaped.

    JSON requires that only for the control characters below U+0020. A line separator, a direction mark or a zero-width
    character can only occur in strings, so escaping it does not change the meaning.
    """
    text = json.dumps(event, ensure_ascii=False, **options)
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else json.dumps(char)[1:-1] for char in text)


def prioritise(logger: Any, name: str, rendered: Any) -> str:
    """Prefix each line of an event's text with its priority in the format of `sd-daemon(3)`, for the journal."""
    prefix = f"<{_PRIORITIES[name]}>"
    return "\n".join(prefix + line for line in rendered.split("\n"))


class Threshold:
    """Drops the events below a level. The level can be changed while other threads log."""

    def __init__(self, level: LogLevel) -> None:
        self._minimum = _RANKS[level]

    def set(self, level: LogLevel) -> None:
        """Drop events below `level` from now on."""
        self._minimum = _RANKS[level]

    def __call__(self, logger: Any, name: str, event: EventDict) -> EventDict:
        """Return the event, or raise `DropEvent`."""
        if _RANKS[name] < self._minimum:
            raise structlog.DropEvent
        return event


class Output(NamedTuple):
    """The destination of the daemon's log."""

    threshold: Threshold
    writer: LineWriter

    def close(self) -> None:
        """Write what is queued and end. Must be called last."""
        self.writer.close()


def configure(
    form: LogFormat,
    level: LogLevel,
    fd: int = _STDERR,
    environ: Mapping[str, str] = os.environ,
) -> tuple[Log, Output]:
    """Create the daemon's logger and its output. The caller must close the output last, and keeps `fd`."""
    stamp = TimeStamper(fmt="iso", utc=True)
    rendering: list[Processor]
    if form == "json":
        render_json = JSONRenderer(to_json, default=str)
        rendering = [add_log_level, stamp, format_exc_info, render_json]
    else:
        # Strings as Python literals: a client's text must not look like another line or move the cursor.
        render_text = ConsoleRenderer(
            colors=os.isatty(fd) and not environ.get("NO_COLOR"), repr_native_str=True
        )
        rendering = [add_log_level, stamp, exception_block, BlockRenderer(render_text)]
    if is_journal(fd, environ):
        rendering.append(prioritise)

    def say_dropped(count: int) -> str:
        line: Any = {
            "event": "log lines were dropped: the reader of the log did not keep up",
            "lines": count,
        }
        for processor in rendering:
            line = processor(None, "warning", line)
        return f"{line}\n"

    output = Output(Threshold(level), LineWriter(fd, say_dropped, MAX_WAITING))
    logger = structlog.wrap_logger(
        structlog.WriteLogger(cast("TextIO", output.writer)),
        processors=[output.threshold, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(
            "debug"
        ),  # the threshold may be lowered later
        context_class=dict,
    )
    return cast("Log", logger.bind()), output


def is_journal(fd: int, environ: Mapping[str, str]) -> bool:
    """Return whether a descriptor is connected to systemd's journal, according to JOURNAL_STREAM."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
