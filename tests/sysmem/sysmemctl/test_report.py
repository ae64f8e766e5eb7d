"""`sysmemctl report`: the content of the page for a capture and for a running daemon, and its display in a browser."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import sysmem
from sysmem import blocking
from sysmem._inspector import Inspector
from sysmem.sysmemctl import _look, _page
from sysmem.sysmemctl._recording import Recording, header, read
from sysmem.sysmemctl._source import ClientEnds
from sysmem.sysmemctl._story import Stories, Story, seconds
from sysmem.sysmemctl._time_line import Scale, time_line
from sysmem.testing import Sysmemd

from ...browser import Browser, browser, needs_chromium
from .conftest import Ctl, Held, wants, watching

HOSTILE = "</script></style><img src=x onerror=alert(1)>\u202e\x1b[2J\"'&"
#: Elements that have no end tag.
VOID = {"meta", "img", "link", "br", "input", "hr"}


class Page(HTMLParser):
    """A page's elements with their attributes and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self._open: list[tuple[str, list[str]]] = []
        self.feed(text)
        self.close()
        assert self._open == [], "each element is ended"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        text: list[str] = []
        self.elements.append((tag, {name: value or "" for name, value in attrs}, text))
        if tag not in VOID:
            self._open.append((tag, text))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, tag
        assert self._open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        for _, text in self._open:
            text.append(data)

    def all(self, tag: str, cls: str = "") -> list[str]:
        """Return the texts of all elements with this tag and class."""
        return [
            " ".join("".join(text).split())
            for name, attributes, text in self.elements
            if name == tag and (not cls or cls in attributes.get("class", "").split())
        ]


@pytest.fixture
def page(ctl: Ctl, tmp_path: Path) -> Any:
    """Create the page of a capture or of the test's daemon, and parse it."""

    def make(*arguments: str) -> Page:
        output = tmp_path / "out.html"
        printed = ctl("report", *arguments, "-o", str(output))
        assert (printed.status, printed.out) == (0, "")
        return Page(output.read_text())

    return make


def refuse(sysmemd: Sysmemd, camera_name: str = "camera", name: str = "refused") -> None:
    with (
        blocking.connect(sysmemd.runtime_dir, name=camera_name, id=7) as camera,
        blocking.connect(sysmemd.runtime_dir, name="display", id=8) as display,
    ):
        token = camera.allocate_shared_collection()
        token.set_name(1, name)
        [other] = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        with (
            camera.bind_shared_collection(token) as one,
            display.bind_shared_collection(other) as two,
        ):
            one.set_constraints(wants(65536))
            one.sync()
            two.set_constraints(wants(10, 20))
            assert one.wait_closed(10)
            assert two.wait_closed(10)


def die(sysmemd: Sysmemd) -> None:
    """Negotiate, then close the camera without Release."""
    with (
        blocking.connect(sysmemd.runtime_dir, name="camera", id=7) as camera,
        blocking.connect(sysmemd.runtime_dir, name="display", id=8) as display,
    ):
        token = camera.allocate_shared_collection()
        token.set_name(1, "pipeline")
        [other] = token.duplicate_sync([sysmem.Rights.SAME_RIGHTS])
        one = camera.bind_shared_collection(token)
        with display.bind_shared_collection(other) as two:
            one.set_constraints(wants(65536))
            two.set_constraints(wants(10))
            one.wait_for_all_buffers_allocated().close()
            two.wait_for_all_buffers_allocated().close()
            one.close()
            assert two.wait_closed(10)


@contextlib.contextmanager
def capturing(sysmemd: Sysmemd, file: Path, until: str) -> Iterator[None]:
    """Capture the events within the block, until the file contains this text."""
    with watching(sysmemd, "capture", str(file)) as process:
        yield
        while until not in file.read_text():
            pass  # only the writing process knows when
        process.send_signal(2)
        assert process.wait(10) == 0


def test_a_refused_negotiation(sysmemd: Sysmemd, tmp_path: Path, page: Any) -> None:
    file = tmp_path / "capture.jsonl"
    with capturing(sysmemd, file, '"explained"'):
        refuse(sysmemd)
    shown = page(str(file))
    [sentence] = shown.all("h1")
    assert "was refused with CONSTRAINTS_INTERSECTION_EMPTY after" in sentence
    assert sentence.endswith("min_size_bytes must be at most max_size_bytes (65536 > 20)."), (
        sentence
    )
    assert shown.all("span", "tag") == ["refused"]
    items = shown.all("li")
    assert "These participants do not agree: camera (7) and display (8)." in items
    assert "camera (7) said buffer_memory_constraints.min_size_bytes = 65536." in items
    assert shown.all("th", "conflict") == ["camera (7) in conflict", "display (8) in conflict"]
    assert shown.all("td", "conflict") == ["65536", "65536 > 20", "20", "65536 > 20"]
    [camera, display, _] = shown.all("p", "who")
    assert camera.startswith(f"1 camera (7) {_command()} [{os.getpid()}]")
    assert "constraints set at +" in camera
    assert "failed at +" in display
    assert len(shown.all("line", "attempt")) == 2
    assert "4 aggregate: min_size_bytes must be at most" in shown.all("pre")[0]
    calls = " ".join(shown.all("table", "messages"))
    assert "BufferCollection.SetConstraints(constraints)" in calls
    assert "Allocator.BindSharedCollection(token, buffer_collection_request) 2 descriptors" in calls
    assert '"max_size_bytes":20' in calls


def _command() -> str:
    return Path("/proc/self/comm").read_text().strip()


def test_who_died_when(sysmemd: Sysmemd, tmp_path: Path, page: Any) -> None:
    file = tmp_path / "capture.jsonl"
    with capturing(sysmemd, file, '"explained"'):
        die(sysmemd)
    shown = page(str(file))
    assert "agreed on 2 × 64 KiB and failed after" in shown.all("h1")[0]
    [died] = shown.all("li")[:1]
    assert died.startswith(f"camera (7), {_command()} [{os.getpid()}], died ")
    assert len(shown.all("text", "died")) == 1
    assert "has buffers" in shown.all("p", "who")[0]
    assert "2 × 64 KiB for camera (7), display (8). None of them was left at the end." in shown.all(
        "p"
    )
    assert "the largest min_size_bytes: camera (7)" in " ".join(shown.all("dd"))


def test_a_running_daemon_with_what_failed_first(collections: Held, page: Any) -> None:
    shown = page()
    assert shown.all("h1") == ["4 collections: 1 refused, 1 waiting, 1 agreed, 1 ended as planned."]
    index = shown.all("li")[:4]
    assert [line.split()[0] for line in index] == ["refused", "waiting", "agreed", "ended"]
    assert f"[{os.getpid()}] must turn in its token" in index[1]
    assert "hanging" in index[1]
    assert [name.split()[1] for name in shown.all("h2")[:3]] == ["refused", "hanging", "allocated"]
    assert shown.all("td", "conflict")[-1] == "65536 > 20"
    holders = " ".join(shown.all("td"))
    assert f"{_command()} [{os.getpid()}]: 1 descriptor, writable" in holders
    assert "the daemon [" in holders


def test_a_capture_that_was_killed(sysmemd: Sysmemd, tmp_path: Path, page: Any) -> None:
    file = tmp_path / "capture.jsonl"
    with (
        watching(sysmemd, "capture", str(file)) as process,
        blocking.connect(sysmemd.runtime_dir, name="camera", id=7) as camera,
        camera.allocate_shared_collection() as token,
    ):
        token.set_name(1, "left over")
        token.sync()
        while "left over" not in file.read_text():
            pass
        process.kill()
        process.wait()
    shown = page(str(file))
    assert "left over" in shown.all("h1")[0]
    assert "must turn in its token" in shown.all("h1")[0]
    assert "the capture was killed" in " ".join(shown.all("p", "from"))


def test_what_clients_said_is_only_text(sysmemd: Sysmemd, tmp_path: Path, page: Any) -> None:
    file = tmp_path / "capture.jsonl"
    with capturing(sysmemd, file, '"explained"'):
        refuse(sysmemd, HOSTILE, HOSTILE)
    shown = page(str(file))
    tags = {tag for tag, _, _ in shown.elements}
    assert not tags & {"img", "link", "iframe", "object", "base"}
    assert [tag for tag, _, _ in shown.elements].count("script") == 1
    for _, attributes, _ in shown.elements:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("src", "style")
        ]
        assert attributes.get("href", "#").startswith("#")
    text = (tmp_path / "out.html").read_text()
    assert "\u202e" not in text
    assert "\x1b" not in text
    assert "</script></style><img src=x onerror=alert(1)>\\u202e\\x1b[2J\"'&" in shown.all("h1")[0]
    [policy] = [
        attributes["content"]
        for tag, attributes, _ in shown.elements
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_a_name_that_looks_like_two_columns(sysmemd: Sysmemd, page: Any) -> None:
    refuse(sysmemd, "came | ra")
    shown = page()
    assert "These participants do not agree: came | ra (7) and display (8)." in shown.all("li")
    assert "65536" in " ".join(shown.all("pre"))
    assert shown.all("table", "constraints") == []


def many(count: int) -> str:
    """Return a capture of this many collections, the first of which failed."""
    snapshot = {
        "daemon": {"version": "0", "pid": 1, "uid": 0},
        "connections": [],
        "collections": [],
    }
    events = []
    for id in range(1, count + 1):
        at = f"2026-01-01T00:{id // 60:02}:{id % 60:02}.000000Z"
        about = {"at": at, "collection": id, "node": 1, "connection": id}
        who = {"client_name": f"client {id}", "client_id": id}
        made = {"parent": None, "kind": "collection", "state": "collection", "koid": id, "by": None}
        events.append({"event": "node", **about, **who, **made})
        failed = id == 1
        ended = {"id": id, "name": f"number {id}", "ended": at, "node": 1, "error": None}
        how = {"how": "failed" if failed else "released", "cause": "", "line": "it broke"}
        events.append({"event": "ended", **about, **who, **ended, **how})
    first = header(snapshot) | {"at": "2026-01-01T00:00:00Z"}
    return "".join(f"{json.dumps(line)}\n" for line in (first, *events))


def test_a_capture_of_hundreds_of_collections_stays_usable(tmp_path: Path, page: Any) -> None:
    file = tmp_path / "capture.jsonl"
    file.write_text(many(700))
    shown = page(str(file))
    index = shown.all("li")[:700]
    assert index[0].startswith("failed number 1 (1) failed after")
    assert all(line.startswith("ended as planned") for line in index[1:])
    assert len([text for text in shown.all("h3") if text == "Time line"]) == _page.MOST_IN_FULL
    assert "Of the further collections only what came of them is shown." in shown.all(
        "p", "warning"
    )
    assert len((tmp_path / "out.html").read_bytes()) < 1_000_000


def test_one_of_thousands_of_nodes_and_messages_stays_usable(tmp_path: Path, page: Any) -> None:
    file = tmp_path / "capture.jsonl"
    first, node, ended = map(json.loads, many(1).splitlines())
    del ended
    nodes = [{**node, "node": 2 + n, "parent": 1, "koid": 2 + n} for n in range(3000)]
    nodes[-1] = {**nodes[-1], "state": "orphan"}
    message = {
        **{key: node[key] for key in ("at", "collection", "node", "client_name", "client_id")},
        "event": "message",
        "connection": 1,
        "direction": "in",
        "txid": 0,
        "protocol": "Node",
        "method": "SetName",
        "fields": [],
        "descriptors": 0,
        "error": None,
        "body": None,
    }
    lines = (first, node, *nodes, *[message] * 3000)
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    shown = page(str(file))
    assert "2901 more nodes have no lane here." in shown.all("p", "from")
    assert "2001 more nodes are not shown." in shown.all("p", "from")
    assert "3000 messages, of which the first and the last 1000 are shown" in shown.all("summary")
    assert len((tmp_path / "out.html").read_bytes()) < 2_000_000


T0 = "2026-01-01T00:00:00Z"


def at(second: float) -> str:
    return f"2026-01-01T00:00:{second:09.6f}Z"


def told(event: str, second: float, /, **values: Any) -> dict[str, Any]:
    """Return an event about collection 1."""
    about = {"collection": 1, "node": 1, "connection": 10, "client_name": "camera", "client_id": 7}
    return {"event": event, "at": at(second), **about, **values}


def message(second: float, direction: str, method: str, **values: Any) -> dict[str, Any]:
    how = {"direction": direction, "method": method, "protocol": "Node", "txid": 1, "fields": []}
    return told("message", second, **how, **{"descriptors": 0, "error": None, **values})


NODE = {"parent": None, "kind": "collection", "state": "collection", "koid": 5, "by": 9}
SERVICE = {"collection": None, "node": None, "connection": 9}


def stories(*events: dict[str, Any], end: dict[str, Any] | None = None) -> Stories:
    daemon = {"version": "0", "pid": 1, "uid": 0}
    snapshot = {"daemon": daemon, "connections": [], "collections": []}
    return Stories(Recording(header(snapshot) | {"at": T0}, list(events), end))


def states(story: Story, node: int) -> list[tuple[float, str]]:
    began = seconds(T0)
    return [(round(time - began, 3), state) for time, state in story.lives[node].states]


def test_the_story_of_a_collection() -> None:
    connected = told(
        "connected", 1, **SERVICE, protocol="fuchsia.sysmem2.Allocator", pid=3, uid=4, command="app"
    )
    made = message(2, "in", "AllocateNonSharedCollection", **SERVICE)
    info = {"settings": {"x": 1}, "buffers": [{}, {}]}
    events = [
        connected,
        told("connected", 1, **{**SERVICE, "connection": 8}, protocol="sysmem.Inspector"),
        message(1.5, "in", "SetDebugClientInfo", **SERVICE),
        made,
        told("node", 3, **NODE),
        told("node", 3, **NODE, node=2, connection=11, client_name="tv"),
        message(4, "in", "SetName", body={"name": "video"}),
        message(4, "in", "SetName", body={"name": "later"}),
        message(5, "in", "SetConstraints", body={"constraints": {"a": 1}}),
        message(6, "in", "WaitForAllBuffersAllocated", body={}),
        told("said", 7, text="allocated", fields={}),
        told("said", 7, text="something else", fields={}),
        message(8, "out", "WaitForAllBuffersAllocated", body={"buffer_collection_info": info}),
        message(8.5, "in", "WaitForAllBuffersAllocated", body={}),
        message(9, "out", "WaitForAllBuffersAllocated", node=2, error="NO_MEMORY"),
        told("left", 10, state="orphan", cause=None, first=None, line=None),
        told("left", 11, node=2, state="failed", cause="closed without Release", first=2, line="l"),
        told("closed", 12),
        told("refused", 13, connection=11, reason="a rule"),
    ]
    found = stories(*events)
    [story] = found.collections.values()
    assert (story.name, story.settings, story.buffer_count) == ("video", {"x": 1}, 2)
    assert states(story, 1) == [
        *((3, "collection"), (5, "constrained"), (6, "awaited"), (8, "has buffers")),
        (10, "orphan"),
    ]
    assert states(story, 2) == [(3, "collection"), (11, "failed")]
    one, other = (story.lives[number] for number in (1, 2))
    assert (one.node["constraints"], one.node["outcome"]) == ({"a": 1}, "success")
    assert {key: one.node[key] for key in ("ready", "connected", "released")} == {
        "ready": True,
        "connected": False,
        "released": True,
    }
    assert (one.node["pid"], one.node["uid"], one.node["command"]) == (3, 4, "app")
    assert (other.node["outcome"], other.node["released"], other.node["connected"]) == (
        *("NO_MEMORY", False, False),
    )
    assert [one.died, other.died] == [False, True]
    assert one.failure is None
    assert story.attempts == [(seconds(at(7)), None)]
    assert (story.began, story.until) == (seconds(at(2)), seconds(at(13)))
    assert story.messages[0] == made
    assert story.messages.count(made) == 1
    assert [each["method"] for each in found.others] == ["SetDebugClientInfo"]
    assert sorted(found.connections) == [9, 10, 11]
    service, first, second = (found.connections[number] for number in (9, 10, 11))
    assert service.process == {"pid": 3, "uid": 4, "command": "app"}
    assert (service.collection, first.collection, second.protocol) == (None, 1, "collection")
    assert len(service.messages) == 2
    assert (first.closed, first.refused) == (seconds(at(12)), None)
    assert (second.closed, second.refused) == (None, "a rule")
    assert story.collection["state"] == "allocated"
    assert (story.collection["waiting_for"], story.collection["age_s"]) == ([], 11.0)


def test_the_story_of_a_collection_that_waits_and_of_one_that_has_ended() -> None:
    waits = told("node", 1, **{**NODE, "by": None})
    ready = told("node", 1, **{**NODE, "by": None, "node": 2, "state": "constrained"})
    [story] = stories(waits, ready, told("lost", 5, collection=None, count=1)).collections.values()
    assert story.collection["state"] == "negotiating"
    assert story.collection["waiting_for"] == [1]
    assert (story.until, story.collection["age_s"]) == (seconds(at(5)), 4.0)
    explained = told("explained", 6, explanation={"name": "late", "attempts": []})
    ended = told("ended", 3, name="", how="failed", error=None, cause="", line="")
    [story] = stories(waits, ended, explained).collections.values()
    assert (story.name, story.until, story.collection["waiting_for"]) == (
        *("late", seconds(at(3)), []),
    )


def test_the_last_snapshot_of_a_capture_counts() -> None:
    node = {
        "number": 1,
        "age_s": 2.0,
        "outcome": "success",
        "connected": True,
        "state": "awaited",
        "ready": True,
        "client_name": "camera",
        "client_id": 7,
        "koid": 5,
    }
    one = {
        "id": 1,
        "name": "video",
        "age_s": 4.0,
        "settings": {"x": 1},
        "buffer_count": 3,
        "nodes": [node],
        "waiting_for": [],
        "state": "allocated",
        "buffers": [],
    }
    connection = {"number": 9, "protocol": "p", "pid": 1, "uid": 2, "command": "c"}
    looking = {**connection, "number": 8, "protocol": "sysmem.Inspector"}
    snapshot = {"collections": [one], "connections": [connection, looking]}
    ends = {"held": [{"collection": 1, "node": 1, "pid": 3, "uid": 4, "command": "app"}]}
    last = {"snapshot": snapshot, "client_ends": {**ends, "unseen": []}, "holders": {"x": 1}}
    found = stories(end={"at": at(10), "why": "time", **last})
    [story] = found.collections.values()
    assert story.collection is one
    assert (story.began, story.until, found.until) == (
        *(seconds(at(6)), seconds(at(10)), seconds(at(10))),
    )
    assert states(story, 1) == [(8, "has buffers")]
    assert (story.name, story.settings, story.buffer_count) == ("video", {"x": 1}, 3)
    assert list(found.connections) == [9]
    assert [each.pid for each in found.ends.of(one, node)] == [3]
    assert found.holders == {"x": 1}
    bare = stories(end={"at": at(10), "why": "time", "snapshot": None})
    assert (bare.collections, bare.holders, bare.until) == ({}, None, seconds(at(10)))


def test_a_lane_has_states_messages_and_a_death() -> None:
    [story] = stories(
        told("node", 1, **{**NODE, "by": None}),
        message(2, "in", "Sync"),
        message(3, "out", "Sync", error="NO_MEMORY"),
        message(3, "in", "Sync", node=2),
        told("left", 4, state="failed", cause="closed without Release", first=1, line="l"),
        told("node", 4, **{**NODE, "by": None, "node": 2}),
        told("left", 5, node=2, state="failed", cause="not selected by its group", first=3),
        told("said", 5, text="allocation failed", fields={"error": "NO_MEMORY"}),
    ).collections.values()
    line = time_line(story, ClientEnds([]))
    one, other = line.lanes
    assert [(bar.label, bar.kind, bar.since) for bar in one.bars] == [
        ("turned it in", "asked", "+0 ms"),
        ("failed", "failed", "+3.000 s"),
    ]
    assert one.bars[0].start == 0
    assert one.bars[0].start + one.bars[0].width == pytest.approx(one.bars[1].start, abs=0.02)
    assert one.bars[1].start + one.bars[1].width == pytest.approx(100, abs=0.02)
    assert [(dot.to_daemon, dot.is_error) for dot in one.dots] == [(True, False), (False, True)]
    assert one.death == one.bars[1].start
    assert (one.is_left_out, other.is_left_out, other.death) == (False, True, None)
    assert len(other.dots) == 1
    assert line.attempts == [(100, False)]
    assert line.more == 0


def outcome(*more: dict[str, Any], holders: list[dict[str, Any]] | None = None) -> _page.Article:
    """Return what the page says of a collection of two participants."""
    events = [
        told("node", 1, **{**NODE, "by": None}),
        told("node", 1, **{**NODE, "by": None, "node": 2}, client_name="tv", client_id=8),
        message(2, "in", "SetConstraints", body={"constraints": {"min_buffer_count": 2}}),
        *more,
    ]
    found = stories(*events)
    if holders is not None:
        other = {"id": 2, "buffers": [{"index": 9}]}
        found.holders = {"collections": [{"id": 1, "buffers": holders}, other]}
    [story] = found.collections.values()
    return _page._article(story, found, full=True)


def ended(how: str, **more: Any) -> dict[str, Any]:
    values = {"name": "video", "how": how, "error": None, "cause": "a cause", "line": ""}
    return told("ended", 4, **{**values, **more})


AGREED = message(
    3,
    "out",
    "WaitForAllBuffersAllocated",
    body={
        "buffer_collection_info": {
            "settings": {"buffer_settings": {"raw_vmo_size": 4096}},
            "buffers": [{}, {}],
        }
    },
)
WHOSE = {"client_name": "tv", "client_id": 8}


@pytest.mark.parametrize(
    ("events", "outcome_", "sentence"),
    [
        ([ended("released")], "ended", "video (1) ended as planned after 3.0 s."),
        (
            [AGREED, ended("released")],
            "ended",
            "video (1) agreed on 2 × 4 KiB and ended as planned after 3.0 s.",
        ),
        ([ended("failed")], "failed", "video (1) failed after 3.0 s: a cause."),
        (
            [AGREED, ended("failed", line="a line")],
            "failed",
            "video (1) agreed on 2 × 4 KiB and failed after 3.0 s: a line.",
        ),
        (
            [ended("failed", error="NO_MEMORY", line="no room")],
            "refused",
            "video (1) was refused with NO_MEMORY after 3.0 s: no room.",
        ),
        ([AGREED], "agreed", "collection without a name (1) agreed on 2 × 4 KiB."),
    ],
)
def test_what_came_of_a_collection(
    events: list[dict[str, Any]], outcome_: str, sentence: str
) -> None:
    article = outcome(*events)
    assert (article.outcome, article.sentences) == (outcome_, [sentence])
    assert article.allocated == ("2 × 4 KiB" if AGREED in events else "")
    assert article.given == (["camera (7)"] if AGREED in events else [])
    assert article.collection["nodes"][0]["state"] == "constrained", "as the daemon names it"


def test_who_failed_first_and_why_the_others_did() -> None:
    article = outcome(
        told("left", 3, state="failed", cause="x", first=1, line="it left"),
        told("left", 3, node=2, state="failed", cause="closed without Release", first=2, line="y"),
        ended("failed", line="it broke"),
    )
    assert article.sentences[1:] == ["tv (8) died 2.0 s after the beginning.", "it left."]
    article = outcome(
        *(told("left", 3, node=n, state="failed", cause="x", first=1, line="same") for n in (1, 2)),
        ended("failed", line="it broke"),
    )
    assert article.sentences[1:] == ["same."]
    article = outcome(
        told("left", 3, state="failed", cause="x", first=1, line="it broke"),
        ended("failed", line="it broke"),
    )
    assert article.sentences[1:] == []


def test_a_refusal_with_its_conflict_and_values() -> None:
    values = [
        {"node": 1, "client_name": "camera", "client_id": 7, "path": "$.a", "value": [1, "x"]},
        {"node": 2, **WHOSE, "path": "$.b", "value": {"c": 1}},
        *({"node": 2, **WHOSE, "path": "$.d", "value": n} for n in range(9)),
    ]
    refusal = {"stage": "fold", "line": "fold: it is so; more", "conflict": [1, 2, 5]}
    attempt = {"outcome": "NO_MEMORY", "text": "first\nsecond"}
    good = {"outcome": "success", "text": "", "selections": []}

    def explained(*attempts: dict[str, Any]) -> dict[str, Any]:
        return told("explained", 5, explanation={"name": "late", "attempts": attempts})

    def selection(refusal: Any = None, explanation: Any = None) -> dict[str, Any]:
        return {"refusal": refusal, "explanation": explanation}

    selections = [selection(), selection({**refusal, "values": values}), selection()]
    refused = {**attempt, "selections": selections}
    end = ended("failed", error="NO_MEMORY", line="a line")
    article = outcome(end, explained(good, refused))
    assert article.sentences == [
        "video (1) was refused with NO_MEMORY after 3.0 s: it is so.",
        "These participants do not agree: camera (7), tv (8) and node 5.",
        "camera (7) said a = 1, x.",
        'tv (8) said b = {"c": 1}.',
        *(f"tv (8) said d = {n}." for n in range(6)),
    ]
    assert article.report == ["first", "second"]
    alone = {**refused, "selections": [selection({**refusal, "values": [], "conflict": [2]})]}
    assert len(outcome(end, explained(alone)).sentences) == 1
    decided = {"size_bytes": "camera (7)", "other": None}
    chosen = {**good, "selections": [selection(None, each) for each in ({}, decided)]}
    article = outcome(end, explained(refused, chosen))
    assert article.sentences == ["video (1) was refused with NO_MEMORY after 3.0 s: a line."]
    assert article.decisions == {"size bytes": "camera (7)"}


def test_buffers_with_the_same_holders_are_one_row() -> None:
    buffers = [
        {"index": index, "inode": 10 + index, "size": 4096, "state": state, "holders": []}
        for index, state in enumerate(("clients", "clients", "server"))
    ]
    assert outcome(holders=buffers).buffers == [
        _page.Held("0, 1", 4096, "10, 11", "clients", []),
        _page.Held("2", 4096, "12", "server", []),
    ]
    assert outcome().buffers == []


def test_a_message_on_the_page() -> None:
    one = message(3, "out", "Sync", error="NO_MEMORY", body={"a": "x" * 3000})
    other = message(0, "in", "Sync", client_name="", node=None)
    first, second = _page._messages([one, other], seconds(at(1)))
    assert (first.after, first.who, first.to_daemon) == ("+2.000 s", "camera (7), node 1", False)
    assert (first.call, first.error) == ("Node.Sync()", "NO_MEMORY")
    assert first.body is not None
    assert (len(first.body), first.body[-1]) == (2001, "…")
    assert (second.after, second.who, second.to_daemon) == ("+0 ms", "connection 10", True)
    assert (second.error, second.body) == (None, None)


def test_what_is_missing_is_told(tmp_path: Path, page: Any) -> None:
    file = tmp_path / "capture.jsonl"
    lost = json.dumps({"event": "lost", "at": "2026-01-01T00:00:00Z", "count": 3})
    file.write_text(f"{many(1)}{lost}\n")
    assert "3 events are missing" in page(str(file)).all("p", "warning")[0]


def test_wrong_files(ctl: Ctl, tmp_path: Path) -> None:
    out = ["-o", str(tmp_path / "out.html")]
    assert ctl("report", str(tmp_path / "nothing"), *out).status == 1
    (tmp_path / "other").write_text("{}\n")
    printed = ctl("report", str(tmp_path / "other"), *out)
    assert (printed.status, printed.out) == (1, "")
    assert "is not a capture" in printed.err
    (tmp_path / "odd").write_text('{"capture": 1, "at": "2026-01-01T00:00:00Z", "snapshot": {}}\n')
    printed = ctl("report", str(tmp_path / "odd"), *out)
    assert (printed.status, printed.out) == (1, "")
    assert "odd does not have the format of docs/capture.md: KeyError('connections')" in printed.err
    assert not (tmp_path / "out.html").exists()


def test_collections_are_explained_while_others_are_captured(
    sysmemd: Sysmemd, tmp_path: Path
) -> None:
    file = tmp_path / "capture.jsonl"
    with (
        capturing(sysmemd, file, '"explained"'),
        Inspector.connect(sysmemd.runtime_dir) as inspector,
    ):
        refuse(sysmemd)
        assert _look.explained(inspector, 1, 10) is None
    recording = read(file)
    [explained] = [each for each in recording.events if each["event"] == "explained"]
    [attempt] = explained["explanation"]["attempts"]
    assert attempt["outcome"] == "CONSTRAINTS_INTERSECTION_EMPTY"
    assert recording.end is not None
    assert recording.end["holders"]["collections"] == []
    assert recording.end["client_ends"]["held"] == []


def test_more_time_takes_more_room_by_its_logarithm() -> None:
    scale = Scale([0.0, 0.001, 0.002, 1.0, 1000.0])
    places = [scale(time) for time in (0.0, 0.001, 0.002, 1.0, 1000.0)]
    gaps = [later - earlier for earlier, later in pairwise(places)]
    assert (places[0], places[-1]) == (0, 100)
    assert gaps[0] == pytest.approx(gaps[1], abs=0.02)
    assert 1 < gaps[3] / gaps[2] < 3
    ticks = scale.ticks()
    assert (ticks[0].label, ticks[-1].label) == ("+0 ms", "+16 min 40 s")
    assert all(b.place - a.place >= 15 for a, b in pairwise(ticks))
    assert Scale([5.0])(5.0) == 0


@needs_chromium
def test_a_browser_shows_it(sysmemd: Sysmemd, page: Any, tmp_path: Path) -> None:
    file, out = tmp_path / "capture.jsonl", tmp_path / "out.html"
    with capturing(sysmemd, file, '"explained"'):
        refuse(sysmemd, HOSTILE, "refused")
    page(str(file))
    with browser(tmp_path / "profile") as shown:
        _is_shown_at_every_width_in_light_and_dark_and_on_paper(shown, out)
        _has_all_but_the_filter_without_scripts(shown, out)
        _filters(shown, out)


def _is_shown_at_every_width_in_light_and_dark_and_on_paper(shown: Browser, file: Path) -> None:
    grounds = set()
    for width, dark in ((360, False), (360, True), (1280, False), (1280, True)):
        shown.open(file, width, dark=dark)
        assert shown.evaluate("document.documentElement.scrollWidth") == width
        assert shown.evaluate("document.images.length") == 0
        assert shown.requests == [file.as_uri()]
        assert shown.complaints == []
        assert "was refused with" in shown.evaluate("document.querySelector('h1').innerText")
        bar = "document.querySelector('rect.bar')"
        assert shown.evaluate(f"{bar}.getBoundingClientRect().width") > 0
        assert shown.evaluate(f"getComputedStyle({bar}).fill") != "rgb(0, 0, 0)"
        grounds.add(shown.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(grounds) == 2
    shown.open(file, 800, dark=True, media="print")
    assert shown.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def _has_all_but_the_filter_without_scripts(shown: Browser, file: Path) -> None:
    shown.open(file, 1280, scripts=False)
    assert shown.evaluate("document.querySelectorAll('.filter').length") == 0
    assert "65536 > 20" in shown.evaluate("document.body.innerText")


def _filters(shown: Browser, file: Path) -> None:
    shown.open(file, 1280)
    rows = (
        "[...document.querySelectorAll('article .messages tbody tr')].filter((row) => !row.hidden)"
    )
    before = shown.evaluate(f"{rows}.length")
    script = """
        const input = document.querySelector('article .filter input');
        input.value = 'setconstraints';
        input.dispatchEvent(new Event('input'));
        document.querySelector('article .filter output').innerText
    """
    shown.evaluate("document.querySelector('article details.log').open = true")
    assert shown.evaluate(script) == f"2 of {before}"
    assert shown.evaluate(f"{rows}.length") == 2
