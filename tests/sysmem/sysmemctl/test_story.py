"""What a report says of a capture's events: the stories of collections, the lanes of their nodes, and sentences."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from sysmem.sysmemctl import _page
from sysmem.sysmemctl._recording import Recording, header
from sysmem.sysmemctl._source import ClientEnds
from sysmem.sysmemctl._story import Stories, Story, seconds
from sysmem.sysmemctl._time_line import Scale, time_line

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
