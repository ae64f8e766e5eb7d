"""The log: one event a line, and writing never blocks."""

from __future__ import annotations

import _thread
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from sysmemd import log
from sysmemd.log import LineWriter, configure
from sysmemd.text import Block


class Pipe:
    """A pipe to write the log to."""

    def __init__(self) -> None:
        self.read_fd, self.write_fd = os.pipe()

    def lines(self) -> list[str]:
        """Return the lines that were written. The writing end closes."""
        os.close(self.write_fd)
        self.write_fd = -1
        with os.fdopen(self.read_fd, encoding="utf-8", closefd=False) as stream:
            return stream.read().splitlines()

    def fill(self) -> None:
        """Leave no room."""
        os.set_blocking(self.write_fd, False)
        try:
            while True:
                os.write(self.write_fd, b"x")
        except BlockingIOError:
            os.set_blocking(self.write_fd, True)

    def read(self, count: int) -> bytes:
        return os.read(self.read_fd, count)

    def close(self) -> None:
        for fd in (self.read_fd, self.write_fd):
            if fd >= 0:
                os.close(fd)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    with closing(Pipe()) as made:
        yield made


def say_dropped(count: int) -> str:
    return f"{count} dropped\n"


def said(pipe: Pipe, form: Any, level: Any = "debug") -> list[str]:
    """Return the output for a few events."""
    logger, output = configure(form, level, pipe.write_fd)
    logger.debug("a detail")
    logger.bind(collection_id=5).warning(
        "a client broke a rule", client_name="cam\nera\x1b[2J", id=7
    )
    try:
        raise KeyError("oh")
    except KeyError:
        logger.error("it failed", exc_info=True)
    output.close()
    return pipe.lines()


def test_blocks_of_text_are_lines_on_the_console(pipe: Pipe) -> None:
    logger, output = configure("console", "info", pipe.write_fd)
    tree = Block("root\n  child\x1b[2J\n")
    logger.info("attempting", tree=tree, client_name="a\nb", report=Block("one"))
    logger.info("next")
    output.close()
    event, *block, last = pipe.lines()
    assert event.endswith("client_name='a\\nb'")
    assert block == [
        "    tree:",
        "      root",
        "        child\\x1b[2J",
        "",
        "    report:",
        "      one",
    ]
    assert "next" in last


def test_blocks_of_text_are_texts_in_json(pipe: Pipe) -> None:
    logger, output = configure("json", "info", pipe.write_fd)
    logger.info("attempting", tree=Block("root\n  child"))
    output.close()
    (line,) = pipe.lines()
    assert json.loads(line)["tree"] == "root\n  child"


def test_json_is_one_object_a_line(pipe: Pipe) -> None:
    detail, broken, failed = map(json.loads, said(pipe, "json"))
    assert (detail["event"], detail["level"]) == ("a detail", "debug")
    assert (broken["collection_id"], broken["client_name"]) == (5, "cam\nera\x1b[2J")
    assert broken["timestamp"].endswith("Z")
    assert "KeyError: 'oh'" in failed["exception"]


def test_text_is_one_event_a_line_whatever_clients_are_called(pipe: Pipe) -> None:
    lines = said(pipe, "console")
    assert "a detail" in lines[0]
    assert "collection_id=5" in lines[1]
    assert r"client_name='cam\nera\x1b[2J'" in lines[1]
    assert "it failed" in lines[2]
    assert lines[3:5] == ["    exception:", "      Traceback (most recent call last):"]
    assert lines[-1] == "      KeyError: 'oh'"


def test_what_is_less_than_the_level_is_not_said(pipe: Pipe) -> None:
    assert len(said(pipe, "json", "error")) == 1


def test_the_level_changes_for_loggers_that_exist(pipe: Pipe) -> None:
    logger, output = configure("json", "error", pipe.write_fd)
    bound = logger.bind(collection_id=5)
    bound.info("before")
    output.threshold.set("info")
    bound.info("after")
    bound.debug("too little")
    output.close()
    assert [json.loads(line)["event"] for line in pipe.lines()] == ["after"]


#: Line and paragraph separators, next line, a change of the writing direction, a zero-width and a no-break space, a tag
#: beyond the basic plane, a private character, DEL, a surrogate.
UNPRINTABLE = "\u2028\u2029\x85\u202e\u200b\xa0\U000e0041\ue000\x7f\udc80"


def test_json_escapes_all_that_does_not_show(pipe: Pipe) -> None:
    name = f"é“{UNPRINTABLE}😀"
    logger, output = configure("json", "info", pipe.write_fd)
    logger.info("a client", client_name=name)
    output.close()
    with os.fdopen(pipe.read_fd, "rb", closefd=False) as stream:
        os.close(pipe.write_fd)
        pipe.write_fd = -1
        text = stream.read().decode().removesuffix("\n")
    assert text.isprintable()
    assert "é“" in text
    assert "😀" in text
    assert json.loads(text)["client_name"] == name


def test_a_traceback_on_the_console_can_not_forge_an_event(pipe: Pipe) -> None:
    logger, output = configure("console", "info", pipe.write_fd)
    try:
        raise KeyError("oh\n2026-01-01 [error] forged\x1b[2J")
    except KeyError:
        logger.error("it failed", exc_info=True)
    try:
        raise ValueError("oh\n2026-01-01 [error] forged\x1b[2J")
    except ValueError:
        logger.error("it failed", exc_info=True)
    output.close()
    lines = pipe.lines()
    # A traceback of several exceptions also has empty lines.
    assert sum(bool(line) and not line.startswith("    ") for line in lines) == 2
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize(("no_color", "colored"), [("", True), ("1", False)])
def test_colours_are_for_terminals_and_can_be_switched_off(no_color: str, colored: bool) -> None:
    terminal, fd = os.openpty()
    logger, output = configure("console", "info", fd, {"NO_COLOR": no_color})
    logger.info("an event")
    output.close()
    said = os.read(terminal, 4096)
    os.close(fd)
    os.close(terminal)
    assert b"an event" in said
    assert (b"\x1b[" in said) == colored


@pytest.mark.parametrize("form", ["json", "console"])
def test_lines_for_the_journal_have_priorities(pipe: Pipe, form: Any) -> None:
    status = os.fstat(pipe.write_fd)
    environ = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
    logger, output = configure(form, "debug", pipe.write_fd, environ)
    logger.debug("d")
    logger.info("i", tree=Block("root\n  child"))
    logger.warning("w")
    logger.error("e")
    output.close()
    lines = pipe.lines()
    assert len(lines) == (4 if form == "json" else 7)
    assert "".join(line[1] for line in lines) == ("7643" if form == "json" else "7666643")
    assert {line[0] + line[2] for line in lines} == {"<>"}


@pytest.mark.parametrize("stream", [None, "0:0", "no numbers"])
def test_lines_for_anything_else_have_none(pipe: Pipe, stream: str | None) -> None:
    environ = {} if stream is None else {"JOURNAL_STREAM": stream}
    logger, output = configure("json", "info", pipe.write_fd, environ)
    logger.info("i")
    output.close()
    assert pipe.lines()[0].startswith("{")
    assert not log.is_journal(-1, environ)


# --- no thread --------------------------------------------------------------------------------------------------------


class Threads:
    """Lets threads start, or refuses like the interpreter when the machine has none left."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.available = False
        self.started = 0
        self._start = _thread.start_new_thread
        monkeypatch.setattr(_thread, "start_new_thread", self.start)

    def start(self, *arguments: Any) -> int:
        if not self.available:
            raise RuntimeError("can't start new thread")
        self.started += 1
        return self._start(*arguments)


@pytest.fixture
def threads(monkeypatch: pytest.MonkeyPatch) -> Threads:
    return Threads(monkeypatch)


def test_without_a_thread_lines_are_written_all_the_same(pipe: Pipe, threads: Threads) -> None:
    writer = LineWriter(pipe.write_fd, say_dropped, 100_000)
    writer.write("one\n")
    assert pipe.read(100) == b"one\n"
    writer.write(f"{'x' * 50_000}\n")  # many times the capacity of a pipe
    assert pipe.read(100_000) == b"x" * 50_000 + b"\n"
    writer.close()


def test_without_a_thread_nothing_waits_for_a_reader(pipe: Pipe, threads: Threads) -> None:
    writer = LineWriter(pipe.write_fd, say_dropped, 100_000)
    for _ in range(20):
        writer.write(f"{'x' * 9_998}\n")
    assert select.PIPE_BUF <= pipe.read(1_000_000).count(b"x") < 20 * 9_998
    writer.close()
    assert pipe.lines(), "what fits by now"


def test_as_much_waits_as_may_and_then_as_much_again(pipe: Pipe, threads: Threads) -> None:
    writer = LineWriter(pipe.write_fd, say_dropped, 10)
    for _ in range(2):
        pipe.fill()
        for line in ("one.\n", "two.\n", "three\n"):
            writer.write(line)
        assert not pipe.read(1 << 20).strip(b"x")
        writer.write("")
        assert pipe.read(100) == b"1 dropped\none.\ntwo.\n"
    writer.close()


def test_a_thread_goes_on_with_what_was_begun_without_one(pipe: Pipe, threads: Threads) -> None:
    writer = LineWriter(pipe.write_fd, say_dropped, 1_000_000)
    for number in range(20):
        writer.write(f"{number:02}{'x' * 9_997}\n")
    threads.available = True
    writer.write("last\n")
    text = b""
    while not text.endswith(b"last\n"):
        text += pipe.read(1_000_000)
    writer.close()
    *lines, last = text.decode().splitlines()
    assert lines == [f"{number:02}{'x' * 9_997}" for number in range(20)]
    assert last == "last"


def test_one_thread_writes_all_lines(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = Threads(monkeypatch)
    threads.available = True
    writer = LineWriter(pipe.write_fd, say_dropped, 100)
    for line in (b"one\n", b"two\n", b"three\n"):
        writer.write(line.decode())
        assert pipe.read(100) == line
    assert threads.started == 1
    writer.close()


def test_what_can_not_be_encoded_is_written_as_escapes(pipe: Pipe) -> None:
    logger, output = configure("json", "info", pipe.write_fd)
    logger.info("a path", path="/tmp/\udcff")
    output.close()
    assert json.loads(pipe.lines()[0])["path"] == "/tmp/\udcff"


def test_what_json_does_not_know_is_text(pipe: Pipe) -> None:
    logger, output = configure("json", "info", pipe.write_fd)
    logger.info("an object", what={1})
    output.close()
    assert json.loads(pipe.lines()[0])["what"] == "{1}"


# --- a reader that stopped --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["json", "console"])
def test_lines_that_nobody_reads_are_dropped_and_counted(
    pipe: Pipe, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "MAX_WAITING", 1000)
    pipe.fill()
    logger, output = configure(form, "info", pipe.write_fd)
    for number in range(100):
        logger.info("line", number=number)
    text = b""
    while not text:
        text = pipe.read(65536).strip(b"x")
    output.close()
    said = [line for line in [*text.decode().splitlines(), *pipe.lines()] if "dropped" in line]
    assert said
    assert all(
        "log lines were dropped: the reader of the log did not keep up" in line for line in said
    )
    if form == "json":
        assert 50 < sum(json.loads(line)["lines"] for line in said) < 100


def test_writing_never_waits_and_closing_gives_up(
    pipe: Pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "FLUSH_SECONDS", 0.01)
    pipe.fill()
    writer = LineWriter(pipe.write_fd, say_dropped, max_waiting=12)
    for _ in range(10):
        assert writer.write("line\n") == 5
    writer.flush()
    writer.close()
    text = b""
    while text.count(b"line\n") < 2:  # so that the thread can end
        text = text[-100:] + pipe.read(65536)
    assert b"dropped\n" in text
    monkeypatch.undo()
    writer.close()


def test_a_line_longer_than_all_that_may_wait_is_dropped(pipe: Pipe) -> None:
    writer = LineWriter(pipe.write_fd, say_dropped, 10)
    writer.write("x" * 11)
    writer.write("short\n")
    writer.close()
    assert sorted(pipe.lines()) == ["1 dropped", "short"]


def test_a_descriptor_that_somebody_made_non_blocking_is_waited_for(pipe: Pipe) -> None:
    pipe.fill()
    os.set_blocking(pipe.write_fd, False)
    writer = LineWriter(pipe.write_fd, say_dropped, 100)
    writer.write("last words\n")
    text = b""
    while b"last words\n" not in text:
        text = text[-20:] + pipe.read(65536)
    writer.close()


def test_a_stderr_that_is_gone_is_no_reason_to_stop(pipe: Pipe) -> None:
    os.close(pipe.read_fd)
    pipe.read_fd = -1
    writer = LineWriter(pipe.write_fd, say_dropped, 100)
    writer.write("to nobody\n")
    writer.close()
    assert not writer._is_running


def test_a_process_whose_log_nobody_reads_exits_in_order(pipe: Pipe) -> None:
    """The interpreter does not wait for the thread, and does not abort because of it."""
    pipe.fill()
    script = (
        "from sysmemd import log\n"
        "log.FLUSH_SECONDS = 0.01\n"
        "logger, output = log.configure('json', 'info')\n"
        "logger.info('to nobody')\n"
        "output.close()\n"
    )
    process = subprocess.run([sys.executable, "-c", script], stderr=pipe.write_fd, check=False)
    assert process.returncode == 0
