"""A snapshot as OpenMetrics text; `docs/spec/inspect.md`, "sysmemctl"."""

from __future__ import annotations

from typing import Any

import pytest

from sysmem_protocol.metrics import MAX_USERS, exposition


def user(uid: int, name: str | None = "", **counts: int) -> dict[str, Any]:
    zero = {"connections": 0, "collections": 0, "nodes": 0, "buffers": 0, "bytes": 0}
    return {"uid": uid, "name": name, **zero, **counts}


def snapshot(users: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "totals": {"connections": 2, "collections": 1, "nodes": 3, "buffers": 4, "bytes": 8192},
        "daemon": {"descriptors": {"open": 9, "limit": 1024}},
        "users": users,
        "heaps": [{"heap_type": 'a "heap"\n\\', "id": 7, "buffers": 4, "bytes": 8192}],
        "counters": {
            "messages": {"in": 5, "out": 6},
            "attempts": {"success": 2, "NO_MEMORY": 1},
            "refusals": {},
            "ended": {"failed": 1},
            "negotiation_seconds": {"buckets": [["0.1", 1], ["+Inf", 2]], "count": 2, "sum": 3.5},
        },
    }


def test_the_text_is_what_prometheus_reads() -> None:
    parser = pytest.importorskip(
        "prometheus_client.openmetrics.parser", reason="prometheus-client isn't installed"
    )
    text = exposition(snapshot([user(0, "root", bytes=1), user(1, None)]))
    families = {f.name: f for f in parser.text_string_to_metric_families(text)}
    assert families["sysmem_nodes"].samples[0].value == 3
    assert families["sysmem_messages"].type == "counter"
    labels = [sample.labels for sample in families["sysmem_user_bytes"].samples]
    assert labels == [{"uid": "0", "name": "root"}, {"uid": "1", "name": ""}]
    [heap] = families["sysmem_heap_bytes"].samples
    assert heap.labels == {"heap_type": 'a "heap"\n\\', "id": "7"}
    histogram = families["sysmem_negotiation_seconds"]
    assert [sample.value for sample in histogram.samples] == [1, 2, 2, 3.5]
    assert "sysmem_refusals" in families


def test_the_text_line_by_line() -> None:
    lines = exposition(snapshot([])).splitlines()
    assert lines[:3] == [
        "# TYPE sysmem_connections gauge",
        "# HELP sysmem_connections Connections to the service sockets.",
        "sysmem_connections 2",
    ]
    assert 'sysmem_attempts_total{outcome="NO_MEMORY"} 1' in lines
    assert 'sysmem_heap_bytes{heap_type="a \\"heap\\"\\n\\\\",id="7"} 8192' in lines
    assert "# UNIT sysmem_bytes bytes" in lines
    assert lines[-1] == "# EOF"


def test_users_are_bounded_in_number() -> None:
    users = [user(uid, nodes=1, bytes=uid) for uid in range(MAX_USERS + 3)]
    lines = [line for line in exposition(snapshot(users)).splitlines() if "user_nodes{" in line]
    assert len(lines) == MAX_USERS + 1
    assert lines[0] == f'sysmem_user_nodes{{uid="{MAX_USERS + 2}",name=""}} 1'
    assert lines[-1] == 'sysmem_user_nodes{uid="others",name=""} 3'
