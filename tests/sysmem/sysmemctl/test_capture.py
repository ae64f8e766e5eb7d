"""`sysmemctl capture`: the content of a recording, however the recording ends, and how it is read."""

from __future__ import annotations

import json
import re
import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sysmem import blocking
from sysmem._inspector import Inspector
from sysmem.sysmemctl._recording import Recording, read
from sysmem.sysmemctl._trouble import Trouble
from sysmem.testing import Sysmemd

from .conftest import wants, watching


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "capture.jsonl"


def negotiate(sysmemd: Sysmemd) -> None:
    """Negotiate, and return when the daemon has closed everything."""
    with (
        Inspector.connect(sysmemd.runtime_dir) as inspector,
        inspector.watch() as events,
        blocking.connect(sysmemd.runtime_dir, name="camera", id=7) as camera,
    ):
        collection = camera.allocate_non_shared_collection()
        collection.set_constraints(wants(10))
        collection.wait_for_all_buffers_allocated().close()
        collection.release()
        while events.next(10)["event"] != "ended":
            pass


def captured(sysmemd: Sysmemd, file: Path, end: signal.Signals) -> Recording:
    with watching(sysmemd, "capture", str(file)) as process:
        negotiate(sysmemd)
        _wait_for(file, '"event":"ended"')
        process.send_signal(end)
        process.wait(10)
    return read(file)


def _wait_for(file: Path, text: str) -> None:
    """Read a growing file until it contains a text. Only the writing process knows when that happens."""
    while text not in file.read_text():
        pass


def test_all_that_happened_is_recorded(sysmemd: Sysmemd, file: Path) -> None:
    recording = captured(sysmemd, file, signal.SIGINT)
    assert recording.header["snapshot"]["daemon"]["pid"] == sysmemd.pid
    kinds = {event["event"] for event in recording.events}
    assert {"watching", "connected", "message", "node", "left", "closed", "ended"} <= kinds
    [constraints] = [
        each["body"] for each in recording.events if each.get("method") == "SetConstraints"
    ]
    assert constraints["constraints"]["min_buffer_count"] == 2
    [explained] = [each for each in recording.events if each["event"] == "explained"]
    assert explained["explanation"]["id"] == explained["collection"]
    assert recording.lost == 0
    assert recording.end is not None
    assert recording.end["why"] == "interrupted"
    assert recording.end["snapshot"]["totals"]["collections"] == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_it_can_be_read_after_a_kill(sysmemd: Sysmemd, file: Path) -> None:
    recording = captured(sysmemd, file, signal.SIGKILL)
    assert recording.end is None
    file.write_bytes(file.read_bytes()[:-5])
    assert read(file).events == recording.events[:-1]


@pytest.mark.parametrize(("how", "status"), [("time", 0), ("daemon", 1)])
def test_it_ends_by_time_and_with_the_daemon(
    sysmemd: Sysmemd, file: Path, how: str, status: int
) -> None:
    seconds = ["--seconds", "0"] if how == "time" else []
    with watching(sysmemd, "capture", str(file), *seconds) as process:
        if how == "daemon":
            _wait_for(file, '"event":"watching"')
            sysmemd.stop()
        assert process.wait(10) == status
    end = read(file).end
    assert end is not None
    assert end["why"] == how
    assert (end["snapshot"] is None) == (how == "daemon")


HEADER: dict[str, Any] = {"capture": 1, "version": "0", "at": "", "snapshot": {}}


def incomplete() -> Iterator[tuple[dict[str, Any], str]]:
    """Yield events with one value of a wrong type, which a replay needs, and the keys of these values."""
    right: dict[str, Any] = {
        "connection": 1,
        "collection": 1,
        "node": 1,
        "koid": 1,
        "by": None,
        "count": 1,
    }
    right |= {"first": None, "cause": None, "protocol": "", "direction": "", "method": ""}
    for kind, keys in {
        "connected": ["connection", "protocol"],
        "message": ["connection", "direction", "protocol", "method"],
        "node": ["connection", "by", "collection", "node", "koid"],
        "left": ["connection", "collection", "first", "cause"],
        "refused": ["connection"],
        "closed": ["connection"],
        "ended": ["collection"],
        "lost": ["count"],
    }.items():
        for key in keys:
            yield {"event": kind, **right, key: 0.5}, key


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "not a capture"),
        ('{"capture": 1', "first line is incomplete"),
        ("{}\n", "first line is not a header"),
        ("no JSON\n", "line 1: invalid JSON"),
        (json.dumps(HEADER | {"capture": 2}) + "\n", "has version 2"),
        (json.dumps(HEADER) + "\n[]\n", "line 2: neither"),
        *(
            (f"{json.dumps(HEADER)}\n{json.dumps(event)}\n", f"line 2: .* no valid '{missing}'")
            for event, missing in incomplete()
        ),
    ],
)
def test_what_is_no_capture_is_refused(file: Path, content: str, complaint: str) -> None:
    file.write_text(content)
    with pytest.raises(Trouble, match=complaint):
        read(file)


def test_every_kind_of_event_is_documented() -> None:
    root = Path(__file__).parents[3]
    told = (root / "server/sysmemd/inspection/tracing.py").read_text()
    kinds = set(re.findall(r'_tell\(\s*"(\w+)"', told))
    documented = set(re.findall(r"^\| `(\w+)` \|", (root / "docs/capture.md").read_text(), re.M))
    assert kinds
    assert kinds <= documented
