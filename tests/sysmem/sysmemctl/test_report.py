"""`sysmemctl report`: the content of the page for a capture and for a running daemon, and its display in a browser."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import sysmem
from sysmem import blocking
from sysmem._inspector import Inspector
from sysmem.sysmemctl import _look, _page
from sysmem.sysmemctl._recording import header, read
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
