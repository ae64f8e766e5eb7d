"""Every row of the specification's table of commands, with a daemon that has all kinds of collections."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sysmem import blocking
from sysmem.testing import Sysmemd

from ...spec_pages import rows
from .conftest import NAMES, Ctl, Held, Printed, watching

#: Commands with a test file of their own, because they need another terminal or their own daemons.
ELSEWHERE = {"top", "kill-matrix"}
LIVING = ("hanging", "allocated")


@dataclass(frozen=True)
class Row:
    """The test of one command."""

    #: Its arguments except the collection. `{}` is a directory.
    arguments: Sequence[str] = ()
    #: The collections that are passed to it. Unless it needs one, it is also run without one.
    collections: Sequence[str] = ()
    needs_collection: bool = False
    #: A text on stdout.
    says: str = ""
    has_json: bool = False
    #: Whether it reports its result on stderr.
    remarks: bool = False


ROWS = {
    "ping": Row(says="answered in", has_json=True),
    "list": Row(says="hanging", has_json=True),
    "tree": Row(collections=LIVING, says=" collection camera (7)", has_json=True),
    "show": Row(collections=LIVING, needs_collection=True, says="constraints", has_json=True),
    "why": Row(collections=NAMES, says="(", has_json=True),
    "holders": Row(collections=("allocated", "ended"), says="buffer 0, ", has_json=True),
    "dump": Row(says='{"schema": 1', has_json=True),
    "graph": Row(["-o", "{}/drawing.svg"], collections=LIVING),
    "trace": Row(["--seconds", "0"], collections=LIVING, has_json=True),
    "capture": Row(["{}/capture.jsonl", "--seconds", "0"], remarks=True),
    "replay": Row(["{}/capture.jsonl"], has_json=True, remarks=True),
    "report": Row(["{}/capture.jsonl", "-o", "{}/page.html"], remarks=True),
    "explain": Row(["{}/case.json"], says="refused", has_json=True),
    "export": Row(
        collections=NAMES, needs_collection=True, says='{"participants": ', has_json=True
    ),
    "metrics": Row(says="# EOF"),
    "introspect": Row(says="Allocator", has_json=True),
}


def test_every_row(ctl: Ctl, collections: Held, tmp_path: Path) -> None:
    told = {re.split(r"[` ]", cell)[1] for cell, _ in rows("inspect.md", "sysmemctl")}
    assert told == {*ROWS, *ELSEWHERE}
    (tmp_path / "case.json").write_text(ctl("export", "refused").out)
    for command, row in ROWS.items():
        arguments = [each.format(tmp_path) for each in row.arguments]
        of_one = [[name] for name in row.collections]
        for collection in of_one if row.needs_collection else [[], *of_one]:
            called = [command, *collection, *arguments]
            expected = 1 if command == "explain" else 0  # explains a refusal
            printed = ctl(*called)
            assert printed.status == expected, called
            assert row.says in printed.out, called
            assert bool(printed.out) == bool(row.says), called
            assert bool(printed.err) == row.remarks, called
            if row.has_json:
                _check_json(ctl(*called, "--json"), expected, is_stream=command == "trace")
        _check_complaints(ctl, command, row, arguments)


def _check_json(printed: Printed, status: int, *, is_stream: bool) -> None:
    assert printed.status == status
    if is_stream:
        assert printed.out == ""  # nothing happens
    else:
        json.loads(printed.out)
    assert "\x1b" not in printed.out


def _check_complaints(ctl: Ctl, command: str, row: Row, arguments: Sequence[str]) -> None:
    """Check the complaints about an unknown collection and about a wrong command line."""
    if row.collections:
        printed = ctl(command, "nobody's", *arguments)
        assert (printed.status, printed.out) == (1, "")
        assert 'has no collection "nobody\'s"' in printed.err
    with pytest.raises(SystemExit) as caught:
        ctl(command, "--nothing-like-this")
    assert caught.value.code == 2


@pytest.mark.parametrize("command", ["tree", "show", "holders"])
def test_what_has_ended_is_explained_elsewhere(ctl: Ctl, collections: Held, command: str) -> None:
    printed = ctl(command, "refused")
    assert (printed.status, printed.out) == (1, "")
    assert re.search(
        r"(\d+) \(refused\) ended at .*Z; for the reason see `sysmemctl why \1`", printed.err
    )


def test_a_daemon_without_collections_prints_no_data(ctl: Ctl) -> None:
    for command in ("list", "tree", "holders"):
        printed = ctl(command)
        assert (printed.status, printed.out) == (0, "")
        assert printed.err.startswith(("sysmemctl: the daemon has no", "sysmemctl: there are no"))
    printed = ctl("why")
    assert (printed.status, printed.out) == (1, "")
    assert "no collection has failed" in printed.err


def test_dump_goes_on_with_what_happens(sysmemd: Sysmemd) -> None:
    with watching(sysmemd, "dump", "--monitor") as process:
        with blocking.connect(sysmemd.runtime_dir, name="camera", id=7) as camera:
            camera.allocate_non_shared_collection().close()
        assert process.stdout is not None
        snapshot = json.loads(process.stdout.readline())
        assert snapshot["daemon"]["pid"] == sysmemd.pid
        events: list[dict[str, Any]] = []
        while not events or events[-1]["event"] != "ended":
            events.append(json.loads(process.stdout.readline()))
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert events[0]["event"] == "watching"
    assert events[-1]["cause"] == "closed without Release"


def test_colours_are_for_terminals_only(
    ctl: Ctl, collections: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"):
        monkeypatch.setenv(name, "1")
    for command in ("list", "tree", "why", "holders", "introspect"):
        assert "\x1b" not in ctl(command).out
