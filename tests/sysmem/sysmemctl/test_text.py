"""Numbers, participants, holders and states as people read them."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem.sysmemctl._graph import _process, graph
from sysmem.sysmemctl._holders import describe, is_explained
from sysmem.sysmemctl._holders import summary as summary_of_holders
from sysmem.sysmemctl._list import buffers, waits
from sysmem.sysmemctl._live import Rates, collection_rows, cut, participant_rows, summary
from sysmem.sysmemctl._nodes import marks, process_of, to_do
from sysmem.sysmemctl._show import _result, flat
from sysmem.sysmemctl._source import ClientEnds, select
from sysmem.sysmemctl._text import age, count, size
from sysmem.sysmemctl._tree import label
from sysmem.sysmemctl._trouble import Trouble
from sysmem.sysmemctl._why import _newest_failed, sentences


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (size(0), "0 B"),
        (size(1023), "1023 B"),
        (size(1024), "1 KiB"),
        (size(1536), "1.5 KiB"),
        (size(1 << 20), "1 MiB"),
        (size(3 << 30), "3 GiB"),
        (size(1 << 54), "16384 TiB"),
        (age(0.0015), "2 ms"),
        (age(1), "1.0 s"),
        (age(59.9), "59.9 s"),
        (age(60), "1 min 0 s"),
        (age(3599), "59 min 59 s"),
        (age(3600), "1 h 0 min"),
        (age(86399), "23 h 59 min"),
        (age(90000), "1 d 1 h"),
        (count(0, "event"), "0 events"),
        (count(1, "event"), "1 event"),
        (count(2, "entry", "entries"), "2 entries"),
    ],
)
def test_numbers_have_units(shown: str, text: str) -> None:
    assert shown == text


NODE: dict[str, Any] = {
    "number": 1,
    "kind": "token",
    "client_name": "camera",
    "client_id": 7,
    "state": "token",
    "pid": 5,
    "uid": 1,
    "command": "cam",
    "released": False,
    "weak": False,
    "age_s": 2.0,
    "isolation": "propagate",
    "must_match": False,
    "connected": True,
    "outcome": None,
}
WAITING: dict[str, Any] = {
    "id": 3,
    "name": "",
    "state": "negotiating",
    "age_s": 2.0,
    "settings": None,
    "buffer_count": None,
    "nodes": [{**NODE, "number": n} for n in range(9)],
    "waiting_for": list(range(1, 8)),
}


def held(count: int) -> ClientEnds:
    """Return ends of which the one of node 1 is held by this many processes."""
    one = {"collection": 3, "node": 1, "uid": 1, "command": "app"}
    return ClientEnds.from_data(
        {"held": [{**one, "pid": pid} for pid in range(1, count + 1)], "unseen": []}
    )


def test_of_many_the_first_are_named() -> None:
    assert process_of(WAITING, NODE, held(0)) == "made by cam [5]"
    assert process_of(WAITING, {**NODE, "command": None}, held(0)) == "made by process [5]"
    assert process_of(WAITING, {**NODE, "pid": None}, held(0)) == ""
    assert process_of(WAITING, NODE, held(3)) == "app [1], app [2], app [3]"
    assert process_of(WAITING, NODE, held(8)) == "app [1], app [2], app [3] and 5 more"
    one = "camera (7) made by cam [5]"
    assert waits({**WAITING, "waiting_for": [1, 2]}, held(0)) == f"{one}; {one}"
    assert waits({**WAITING, "waiting_for": [1, 2, 3]}, held(0)) == f"{one}; {one}; 1 more"
    assert waits(WAITING, held(0)) == f"{one}; {one}; 5 more"
    for number, ending in ((8, "1 (no name)"), (21, "14 (no name) and 13 more")):
        several = [{"id": id, "name": ""} for id in range(1, number + 1)]
        with pytest.raises(Trouble) as caught:
            select({"collections": several, "ended": []}, "")
        assert f"the newest is the first: {number} (no name)" in str(caught.value)
        assert str(caught.value).endswith(ending)


def test_a_node_in_words() -> None:
    odd = {
        "released": True,
        "weak": True,
        "must_match": True,
        "connected": False,
        "isolation": "do not propagate",
        "outcome": "NO_MEMORY",
        "pid": None,
    }
    assert marks(NODE) == []
    assert to_do(NODE) == "turn in its token"
    parts = "".join(text for text, _ in label(WAITING, {**NODE, **odd}, held(0), [1]))
    assert parts == (
        "1 token camera (7)  token [weak] [attached] [must match a VMO] [not connected]"
        "  NO_MEMORY  must close its released client end"
    )
    assert "".join(text for text, _ in label(WAITING, NODE, held(1), [2])) == (
        "1 token camera (7), app [1]  token"
    )


def test_a_participant_in_top() -> None:
    daemon = {"counters": {"messages": {"in": 0, "out": 0}}, "daemon": {"pid": 1, "started": ""}}
    one = {**WAITING, "buffers": [], "nodes": [NODE, {**NODE, "number": 8}]}
    rows = participant_rows({**daemon, "collections": [one]}, Rates(lambda: 0.0), held(1))
    assert [(row.key, row.cells[0], row.cells[1], row.cells[-1]) for row in rows] == [
        ("3/1", "camera (7)", "app [1]", "turn in its token"),
        ("3/8", "camera (7)", "made by cam [5]", ""),
    ]


def test_a_daemon_and_its_collections_in_top() -> None:
    at = iter([0.0, 10.0])
    rates = Rates(lambda: next(at))

    def snapshot(received: int) -> dict[str, Any]:
        nodes = [
            {**NODE, "number": 1, "received": received, "sent": received},
            {**NODE, "number": 2, "received": received, "sent": 0, "kind": "group"},
        ]
        buffers = [{"size": 1024}, {"size": 2048}]
        return {
            "daemon": {"version": "7", "pid": 1, "started": "", "uptime_s": 90.0},
            "totals": {"collections": 1, "nodes": 2, "buffers": 2, "bytes": 3072},
            "counters": {"messages": {"in": 10 * received, "out": 5 * received}},
            "collections": [{**WAITING, "nodes": nodes, "buffers": buffers, "waiting_for": [1]}],
        }

    rates.see(snapshot(0))
    assert summary(snapshot(0), rates) == (
        "sysmemd 7 [1], up 1 min 30 s · 1 collection, 2 nodes · 2 buffers, 3 KiB · – messages/s"
    )
    [row] = collection_rows(snapshot(0), rates, held(0))
    assert (row.cells[7], row.order[7]) == ("–", 0.0)
    rates.see(snapshot(20))
    assert summary(snapshot(20), rates).endswith(" · 30 messages/s")
    [row] = collection_rows(snapshot(20), rates, held(0))
    waits_for = "camera (7) made by cam [5]"
    assert (row.key, row.collection, row.state) == ("3", 3, "negotiating")
    assert list(row.cells) == [
        *("–", "3", "negotiating", "2.0 s", "1", "–", "3 KiB", "6.0", waits_for)
    ]
    assert list(row.order) == ["–", 3, "negotiating", 2.0, 1, "–", 3072, 6.0, waits_for]
    [row] = participant_rows(snapshot(20), rates, held(0))
    assert list(row.cells) == [
        *("camera (7)", "made by cam [5]", "3", "token", "token", "3 KiB", "4.0"),
        "turn in its token",
    ]
    assert list(row.order) == [*row.cells[:5], 3072, 4.0, "turn in its token"]
    assert row.state == "negotiating"
    rates = Rates(lambda: 5.0)  # no time passes
    for received in (0, 20):
        rates.see(snapshot(received))
    assert rates.of(None) is None


def test_a_cell_is_cut_to_its_width() -> None:
    assert cut("x" * 32) == "x" * 32
    assert cut("x" * 33) == "x" * 31 + "…"
    assert cut("abc", 2) == "a…"


HOLDER = {
    "pid": 9,
    "uid": 1,
    "command": "app",
    "daemon": False,
    "how": "descriptor",
    "fd": 4,
    "writable": True,
}
MAPPING = {**HOLDER, "how": "mapping", "fd": None, "writable": False}


def test_holders_in_words() -> None:
    daemon = {**HOLDER, "daemon": True}
    assert describe(HOLDER) == "app [9] of user 1: descriptor 4, writable"
    assert describe(MAPPING) == "app [9] of user 1: a mapping, read-only"
    assert describe({**daemon, "writable": None}) == "the daemon [9] of user 1: descriptor 4"
    assert describe({**HOLDER, "how": "message"}) == "app [9] of user 1: in the queue of socket 4"
    assert summary_of_holders(
        [HOLDER, MAPPING, HOLDER, {**MAPPING, "pid": 8}, {**daemon, "pid": 7}]
    ) == [
        "app [9]: 2 descriptors and a mapping, writable",
        "app [8]: a mapping, read-only",
        "the daemon [7]: 1 descriptor, writable",
    ]
    explained = [
        [is_explained({"state": state, "holders": holders}) for holders in ([], [daemon], [HOLDER])]
        for state in ("gone", "server", "clients")
    ]
    assert explained == [[True, True, True], [False, True, True], [False, False, True]]


def test_a_collections_state_in_words() -> None:
    settings = {"buffer_settings": {"raw_vmo_size": 4096}}
    agreed = {**WAITING, "waiting_for": [], "settings": settings, "buffer_count": 2}
    ended = {**agreed, "how": "failed", "ended": "now", "error": "", "line": "", "cause": "x"}
    name = "collection without a name (3)"
    for collection, line in (
        ({**WAITING, "waiting_for": []}, "is negotiating and does not wait for any participant."),
        (agreed, "agreed on 2 × 4 KiB."),
        (ended, "failed at now: x"),
        ({**ended, "line": "y"}, "failed at now: y"),
        ({**ended, "error": "NO_MEMORY"}, "failed at now with NO_MEMORY:"),
        ({**ended, "how": "released"}, "ended at now: all participants are gone, as planned."),
    ):
        assert sentences(collection) == [f"{name} {line}"]
    first, second, *rest = sentences(WAITING, held(1))
    assert first == f"{name} has been waiting for 2.0 s:"
    assert second == ("  camera (7), app [1] must turn in its token; it has not done so for 2.0 s")
    assert len(rest) == 6
    assert (buffers(agreed), buffers({**agreed, "buffer_count": None})) == ("2 × 4 KiB", "–")


def test_a_result_is_under_the_paths_of_its_constraints() -> None:
    settings = {"buffer_settings": {"size_bytes": 9}}
    agreed = {**WAITING, "settings": settings, "buffer_count": 2}
    plain = [("buffer_count", "2"), ("buffer_settings.size_bytes", "9")]
    assert list(_result(agreed)) == plain
    image = {**settings, "image_format_constraints": {"pixel_format": "NV12"}}
    assert list(_result({**agreed, "settings": image})) == [
        *plain,
        ("image_format_constraints[0].pixel_format", "NV12"),
    ]
    assert list(_result(WAITING)) == []


def test_without_a_failure_the_one_that_waits_longest_is_meant() -> None:
    waiting = [
        {**WAITING, "id": id, "age_s": age_s} for id, age_s in ((4, 1.0), (5, 3.0), (6, 2.0))
    ]
    agreed = {**WAITING, "waiting_for": [], "age_s": 9.0}
    planned, failed = ({"id": id, "how": how} for id, how in ((7, "released"), (8, "failed")))
    living = [*waiting, agreed]
    assert _newest_failed({"ended": [planned], "collections": living})["id"] == 5
    assert _newest_failed({"ended": [planned, failed], "collections": living})["id"] == 8
    with pytest.raises(Trouble, match="no collection has failed, and none waits"):
        _newest_failed({"ended": [planned], "collections": [agreed]})


def test_a_drawing_has_marks_levels_and_shared_processes() -> None:
    nodes: list[dict[str, Any]] = [
        {**NODE, "number": 1, "parent": None, "koid": 1, "kind": "collection", "weak": True},
        {**NODE, "number": 2, "parent": 1, "koid": 2, "isolation": "do not propagate"},
    ]
    nodes = [{**node, "connected": False} for node in nodes]
    buffer = {"index": 0, "size": 4096, "inode": 0, "state": "server"}
    one = {**WAITING, "nodes": nodes, "waiting_for": [2], "buffers": [buffer]}
    made = graph([one], 5)
    assert [(box.key, box.kind, box.column, box.lines[1:]) for box in made.boxes.values()] == [
        ("c3", "collection", 0, ["negotiating"]),
        ("n3:1", "participant", 1, ["camera (7)", "token", "weak"]),
        ("n3:2", "token", 2, ["camera (7)", "token", "attached", "must turn in its token"]),
        ("b3:0", "buffer", 4, ["held: server"]),
    ]
    assert [box.waited_for for box in made.boxes.values()] == [False, False, True, False]
    assert made.edges == [("c3", "n3:1", False), ("n3:1", "n3:2", False)]
    assert _process(5, "app", 5, 3).lines == ["the daemon", "pid 5"]
    assert _process(6, "", 5, 3).lines == ["process", "pid 6"]
    assert graph([], 5).boxes == {}


def test_json_tables_are_flat_texts() -> None:
    table = {"a": {"b": True, "c": [1, 2]}, "d": [{"e": "x"}, {"e": [3, [4, 5]]}], "f": False}
    assert dict(flat(table)) == {
        "a.b": "yes",
        "a.c": "1, 2",
        "d[0].e": "x",
        "d[1].e": "3, 4 × 5",
        "f": "no",
    }
