"""A snapshot as OpenMetrics text; `docs/spec/inspect.md`, "sysmemctl"."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.openmetrics import parser as openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_plain

from sysmem_protocol.metrics import MAX_USERS, exposition, lines


def user(uid: int, name: str | None = "", **counts: int) -> dict[str, Any]:
    zero = {"connections": 0, "collections": 0, "nodes": 0, "buffers": 0, "bytes": 0}
    return {"uid": uid, "name": name, **zero, **counts}


def snapshot(users: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "totals": {"connections": 2, "collections": 1, "nodes": 3, "buffers": 4, "bytes": 8192},
        "daemon": {
            "version": "1.0",
            "started": "2026-01-01T00:00:00.500Z",
            "descriptors": {"open": 9, "limit": 1024},
        },
        "users": users,
        "heaps": [
            {"heap_type": 'a "heap"\n\\', "id": 7, "buffers": 4, "bytes": 8192, "max_bytes": 9000}
        ],
        "counters": {
            "messages": {"in": 5, "out": 6},
            "attempts": {"success": 2, "NO_MEMORY": 1},
            "refusals": {},
            "ended": {"failed": 1},
            "negotiation_seconds": {"buckets": [["0.1", 1], ["+Inf", 2]], "count": 2, "sum": 3.5},
            "message_seconds": [
                {
                    "protocol": "Node",
                    "method": "Sync",
                    "buckets": [["+Inf", 1]],
                    "count": 1,
                    "sum": 0.5,
                }
            ],
        },
    }


def test_the_text_is_what_prometheus_reads() -> None:
    text = exposition(snapshot([user(0, "root", bytes=1), user(1, None)]))
    families = {f.name: f for f in openmetrics.text_string_to_metric_families(text)}  # type: ignore[no-untyped-call] # the library has no types there
    assert families["sysmem_nodes"].samples[0].value == 3
    assert families["sysmem_messages"].type == "counter"
    labels = [sample.labels for sample in families["sysmem_user_bytes"].samples]
    assert labels == [{"uid": "0", "name": "root"}, {"uid": "1", "name": ""}]
    [heap] = families["sysmem_heap_bytes"].samples
    assert heap.labels == {"heap_type": 'a "heap"\n\\', "id": "7"}
    histogram = families["sysmem_negotiation_seconds"]
    assert [sample.value for sample in histogram.samples] == [1, 2, 2, 3.5]
    assert "sysmem_refusals" in families
    assert families["sysmem_message_seconds"].samples[0].labels == {
        "protocol": "Node",
        "method": "Sync",
        "le": "+Inf",
    }


def test_the_older_format_says_the_same() -> None:
    data = snapshot([user(0, "root", bytes=1)])
    older = parse_plain("".join(lines(data, plain=True)))
    newer = openmetrics.text_string_to_metric_families(exposition(data))  # type: ignore[no-untyped-call] # the library has no types there
    assert [(f.name, f.type, f.samples) for f in older] == [
        (f.name, f.type, f.samples) for f in newer
    ]


def test_the_text_line_by_line() -> None:
    written = exposition(snapshot([])).splitlines()
    at = written.index("# TYPE sysmem_connections gauge")
    assert written[at : at + 3] == [
        "# TYPE sysmem_connections gauge",
        "# HELP sysmem_connections Connections to the service sockets.",
        "sysmem_connections 2",
    ]
    assert 'sysmem_attempts_total{outcome="NO_MEMORY"} 1' in written
    assert 'sysmem_heap_bytes{heap_type="a \\"heap\\"\\n\\\\",id="7"} 8192' in written
    assert "sysmem_start_time_seconds 1767225600.5" in written
    assert "# UNIT sysmem_bytes bytes" in written
    assert written[-1] == "# EOF"


def test_users_are_bounded_in_number() -> None:
    users = [user(uid, nodes=1, bytes=uid) for uid in range(MAX_USERS + 3)]
    written = [line for line in exposition(snapshot(users)).splitlines() if "user_nodes{" in line]
    assert len(written) == MAX_USERS + 1
    assert written[0] == f'sysmem_user_nodes{{uid="{MAX_USERS + 2}",name=""}} 1'
    assert written[-1] == 'sysmem_user_nodes{uid="others",name=""} 3'


def test_the_page_about_metrics_has_them_all_and_asks_for_no_others() -> None:
    page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
    samples = {line.partition("{")[0].partition(" ")[0] for line in lines(snapshot([user(0)]))}
    samples.discard("#")
    table = "".join(line for line in page.splitlines() if line.startswith("| `"))
    documented = set(re.findall(r"`(sysmem_\w+)`", table))
    types = dict(re.findall(r"# TYPE (\w+) (\w+)", exposition(snapshot([]))))
    counters = {name for name, kind in types.items() if kind == "counter"}
    assert documented == {f"{name}_total" if name in counters else name for name in types}
    rules = "".join(re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL))
    assert set(re.findall(r"sysmem_\w+", rules)) <= documented | samples
    for block in re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        assert yaml.safe_load(block)
