"""The output of commands on terminals of 80 and 40 columns, and without a terminal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.cells import cell_len

from sysmem import blocking
from sysmem.testing import Sysmemd

from .conftest import Ctl, Held, watching
from .terminal import COLOURS, CONTROLS, PATIENCE, terminal

ROOT = Path(__file__).parents[3]
#: Commands with tables and trees, and the text that each must contain at every width, without regard to spaces.
COMMANDS = {
    "list": ["negotiating", "2 × 64 KiB", f"[{os.getpid()}]", r"\x1b[2J[red]"],
    "tree": ["must turn in its token", r"\x1b[2J[red]"],
    "show allocated": ["buffer_memory_constraints.min_size_bytes", "65536", "allocated:1"],
    "why": ["(65536 > 20)", "smallest conflicting set"],
    "why hanging": ["must turn in its token"],
    "why allocated": ["the largest min_size_bytes"],
    "holders allocated": ["buffer 1, 64 KiB", "the daemon"],
    "introspect Allocator.GetVmoInfo": ["0x21a881120aa0ddf9", "need_weak"],
    f"explain {ROOT}/examples/constraints/format_conflict.json": ["refused"],
}
#: Runs the commands one after the other in one process, because most take less time than Python's start.
RUN = """
import sys
from sysmem import sysmemctl
for command in sys.argv[2:]:
    print(end="\\x1e", flush=True)
    sysmemctl.main(["--runtime-dir", sys.argv[1], *command.split()])
"""


@pytest.fixture
def hostile(sysmemd: Sysmemd, collections: Held) -> Iterator[None]:
    """One more collection, with a name that would clear the screen."""
    with blocking.connect(sysmemd.runtime_dir) as allocator:
        token = allocator.allocate_shared_collection()
        token.set_name(1, "\x1b[2J[red]")
        token.sync()
        with token:
            yield


def environment(**more: str) -> dict[str, str]:
    dropped = ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "TERM", "COLORTERM")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "TERM": "xterm-256color", **more}


def without_spaces(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize(("columns", "colours"), [(80, True), (40, True), (80, False)])
def test_everything_fits_the_terminal_and_is_there(
    sysmemd: Sysmemd, hostile: None, columns: int, colours: bool
) -> None:
    command = [sys.executable, "-c", RUN, str(sysmemd.runtime_dir), *COMMANDS]
    with terminal(
        command, columns, environment(**({} if colours else {"NO_COLOR": "1"}))
    ) as program:
        _, *parts = program.read().split("\x1e")
        assert program.process.wait(PATIENCE) == 0
    for (name, expected), part in zip(COMMANDS.items(), parts, strict=True):
        shown = CONTROLS.sub("", part)
        assert "\x1b" not in shown
        assert max(map(cell_len, shown.splitlines())) <= columns, name
        for text in expected:
            assert without_spaces(text) in without_spaces(shown), name
    assert bool(COLOURS.search("".join(parts))) is colours
    assert ("\x1b" in "".join(parts)) is colours


def test_without_a_terminal_lines_are_whole_and_plain(sysmemd: Sysmemd, hostile: None) -> None:
    done = run(RUN, str(sysmemd.runtime_dir), *COMMANDS)
    assert (done.stderr, "\x1b" in done.stdout) == ("", False)
    _, *parts = done.stdout.split("\x1e")
    for (name, expected), part in zip(COMMANDS.items(), parts, strict=True):
        for text in expected:
            assert any(text in line for line in part.splitlines()), name
    header, *rows = parts[0].splitlines()
    assert header.split()[:2] == ["id", "name"]
    assert len(rows) == 4


def test_top_takes_the_terminal_and_gives_it_back(sysmemd: Sysmemd, hostile: None) -> None:
    command = [sys.executable, "-m", "sysmem.sysmemctl", "--runtime-dir", str(sysmemd.runtime_dir)]
    with terminal([*command, "top"], 80, environment()) as program:
        before = termios.tcgetattr(program.side)
        program.read(lambda written: "hanging" in written and "collections" in written)
        program.type("q")
        written = program.read()
        assert program.process.wait(PATIENCE) == 0
        assert termios.tcgetattr(program.side) == before
    assert "\x1b[?1049h" in written, "the alternate screen"
    assert "\x1b[?1049l" in written


def test_top_without_a_terminal_says_what_else_there_is(sysmemd: Sysmemd) -> None:
    done = run(ONE, "--runtime-dir", str(sysmemd.runtime_dir), "top")
    assert (done.returncode, done.stdout) == (1, "")
    assert "top needs a terminal; `sysmemctl list`" in done.stderr


# --- without what draws -----------------------------------------------------------------------------------------------

#: An environment without the drawing libraries.
BARE = """
import sys
sys.modules.update(dict.fromkeys(["jinja2", "rich", "textual", "resvg_py"]))
from sysmem import sysmemctl
"""
#: Functions that run one command there, and several.
ONE = f"{BARE}sys.exit(sysmemctl.main(sys.argv[1:]))"
SEVERAL = f"""{BARE}
for command in sys.argv[2:]:
    status = sysmemctl.main(["--runtime-dir", sys.argv[1], *command.split()])
    print(status, command, file=sys.stderr)
"""


def test_what_draws_nothing_works_without_the_tools(
    sysmemd: Sysmemd, collections: Held, tmp_path: Path
) -> None:
    commands = [
        "ping",
        "dump",
        "metrics",
        "export allocated",
        "list --json",
        "why --json",
        "holders --json",
        f"graph -o {tmp_path}/drawing.dot",
        "trace --seconds 0",
        f"explain {ROOT}/examples/constraints/camera_and_viewer.json",
        f"capture {tmp_path}/capture.jsonl --seconds 0",
    ]
    done = run(SEVERAL, str(sysmemd.runtime_dir), *commands)
    told = [line for line in done.stderr.splitlines() if not line.startswith("sysmemctl: captur")]
    assert told == [f"0 {command}" for command in commands]


def test_what_draws_says_what_to_install(sysmemd: Sysmemd, collections: Held) -> None:
    commands = ["list", "tree", "why", "holders", "show allocated"]
    done = run(SEVERAL, str(sysmemd.runtime_dir), *commands)
    told = (
        "sysmemctl: this command needs the optional dependencies for tools: "
        "pip install 'sysmem[tools]' (or use --json)"
    )
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        line for command in commands for line in (told, f"1 {command}")
    ]


def test_top_says_what_to_install(sysmemd: Sysmemd) -> None:
    command = [sys.executable, "-c", ONE, "--runtime-dir", str(sysmemd.runtime_dir), "top"]
    with terminal(command, 80, environment()) as program:
        assert "pip install 'sysmem[tools]'" in program.read().replace("\r\n", " ")
        assert program.process.wait(PATIENCE) == 1


@pytest.mark.parametrize("stream", ["stdin", "stdout"])
def test_top_needs_a_terminal_for_input_and_output(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    for each in ("stdin", "stdout"):
        monkeypatch.setattr(getattr(sys, each), "isatty", lambda is_one=each == stream: is_one)
    told = ctl("top")
    assert (told.status, told.out) == (1, "")
    assert "top needs a terminal" in told.err


def test_top_does_not_call_a_fault_of_its_own_a_missing_tool(
    ctl: Ctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sysmem.sysmemctl._top_app", None)
    for stream in (sys.stdin, sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with pytest.raises(ImportError, match="_top_app"):
        ctl("top")


def test_report_says_what_to_install(sysmemd: Sysmemd, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = run(ONE, "--runtime-dir", str(sysmemd.runtime_dir), "report", "-o", str(page))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.endswith(
        "needs the optional dependencies for tools: pip install 'sysmem[tools]'\n"
    )
    assert not page.exists()


def run(script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


# --- the end ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["trace", "trace --json", "dump --monitor"])
def test_a_daemon_that_goes_away_is_told(sysmemd: Sysmemd, command: str) -> None:
    with watching(sysmemd, *command.split()) as process:
        sysmemd.faults.kill()
        assert process.communicate(timeout=PATIENCE)[1] == "sysmemctl: the daemon has ended\n"
        assert process.returncode == 1


@pytest.mark.parametrize("command", ["trace", "dump --monitor"])
def test_an_interrupt_is_how_they_end(sysmemd: Sysmemd, command: str) -> None:
    with watching(sysmemd, *command.split()) as process:
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=PATIENCE)[1] == ""
        assert process.returncode == 0


def test_a_daemon_that_hangs_is_waited_for_as_long_as_the_command_line_says(
    sysmemd: Sysmemd,
) -> None:
    commands = ["metrics --timeout 0.1", "dump --timeout 0.1", "trace --timeout 0.1"]
    sysmemd.faults.pause()
    done = run(SEVERAL, str(sysmemd.runtime_dir), *commands)
    sysmemd.faults.resume()
    assert done.stdout == ""
    assert done.stderr.splitlines() == [
        line for command in commands for line in (NO_ANSWER, f"1 {command}")
    ]


NO_ANSWER = "sysmemctl: no answer within 0.1 s"
