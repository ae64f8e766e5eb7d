"""A daemon's metrics as text, for Prometheus and compatible programs (`docs/spec/inspect.md`, "sysmemctl").

There are two formats: OpenMetrics 1.0, and the older text format of Prometheus.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeAlias

#: The media types of the two formats.
OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN: Final = "text/plain; version=0.0.4; charset=utf-8"
#: The maximum number of users with series of their own: those with the most memory. The others are combined.
MAX_USERS: Final = 64

_Labels: TypeAlias = Mapping[str, object]
_Sample: TypeAlias = tuple[str, _Labels, float]
_COUNTED: Final = {
    "connections": "Connections to the service sockets.",
    "collections": "Collections, also those that have ended while somebody holds their buffers.",
    "nodes": "Tokens, collections and groups.",
    "buffers": "Buffers that exist.",
    "bytes": "Bytes of the buffers that exist.",
}


@dataclass(frozen=True, slots=True)
class _Family:
    """Samples of one name, which differ by suffix and labels."""

    name: str
    kind: str
    text: str
    samples: Iterable[_Sample]


def exposition(snapshot: Mapping[str, Any]) -> str:
    """Return the metrics of a daemon as OpenMetrics text, from its Inspector's snapshot of everything."""
    return "".join(lines(snapshot))


def lines(snapshot: Mapping[str, Any], *, plain: bool = False) -> Iterator[str]:
    """Yield the metrics of a daemon line by line.

    Args:
        snapshot: The complete snapshot of its Inspector. Only the numbers are used.
        plain: Whether to write the older text format instead of OpenMetrics.
    """
    for family in _families(snapshot):
        yield from _written(family, plain)
    if not plain:
        yield "# EOF\n"


def _families(snapshot: Mapping[str, Any]) -> Iterator[_Family]:
    totals, counters, daemon = snapshot["totals"], snapshot["counters"], snapshot["daemon"]
    about = [("", {"version": daemon["version"]}, 1)]
    yield _Family("build_info", "gauge", "The version of the daemon.", about)
    started = datetime.fromisoformat(daemon["started"]).timestamp()
    yield _one("start_time_seconds", "When the daemon began, in seconds since 1970.", started)
    for name, text in _COUNTED.items():
        yield _one(name, text, totals[name])
    for name, text in _COUNTED.items():
        samples = [("", labels, counts[name]) for labels, counts in _users(snapshot["users"])]
        yield _Family(f"user_{name}", "gauge", f"{text} By user.", samples)
    heaps = [({"heap_type": h["heap_type"], "id": h["id"]}, h) for h in snapshot["heaps"]]
    for name in ("buffers", "bytes"):
        samples = [("", labels, heap[name]) for labels, heap in heaps]
        yield _Family(f"heap_{name}", "gauge", f"{_COUNTED[name]} By heap.", samples)
    limits = [("", labels, heap["max_bytes"]) for labels, heap in heaps if heap["max_bytes"]]
    yield _Family("heap_max_bytes", "gauge", "Bytes that a heap may have, if bounded.", limits)
    descriptors = daemon["descriptors"]
    yield _one("open_descriptors", "Open descriptors.", descriptors["open"])
    yield _one("max_descriptors", "Descriptors that may be open.", descriptors["limit"])
    messages = [
        ("_total", {"direction": direction}, counters["messages"][direction])
        for direction in ("in", "out")
    ]
    yield _Family("messages", "counter", "Messages from and to clients.", messages)
    for name, label, text in (
        ("attempts", "outcome", "Attempts to allocate."),
        ("refusals", "rule", "Refused attempts, by the rule that was broken."),
        ("ended", "how", "Collections that have ended."),
    ):
        samples = [("_total", {label: key}, count) for key, count in counters[name].items()]
        yield _Family(name, "counter", text, samples)
    yield _Family(
        "negotiation_seconds",
        "histogram",
        "How long collections take from their creation to the end of their first attempt.",
        _histogram({}, counters["negotiation_seconds"]),
    )
    yield _Family(
        "message_seconds",
        "histogram",
        "How long messages take in the daemon until they are processed, and answered if they are calls.",
        [
            sample
            for each in counters["message_seconds"]
            for sample in _histogram({"protocol": each["protocol"], "method": each["method"]}, each)
        ],
    )


def _one(name: str, text: str, value: float) -> _Family:
    return _Family(name, "gauge", text, [("", {}, value)])


def _users(users: list[Mapping[str, Any]]) -> Iterator[tuple[_Labels, Mapping[str, float]]]:
    ranked = sorted(users, key=lambda user: (-user["bytes"], user["uid"]))
    for user in ranked[:MAX_USERS]:
        yield {"uid": user["uid"], "name": user["name"] or ""}, user
    if others := ranked[MAX_USERS:]:
        summed = {name: sum(user[name] for user in others) for name in _COUNTED}
        yield {"uid": "others", "name": ""}, summed


def _histogram(labels: _Labels, histogram: Mapping[str, Any]) -> Iterator[_Sample]:
    for bound, count in histogram["buckets"]:
        yield "_bucket", {**labels, "le": bound}, count
    yield "_count", labels, histogram["count"]
    yield "_sum", labels, histogram["sum"]


def bound(seconds: float) -> str:
    """Return the upper bound of a histogram's bucket in OpenMetrics' notation."""
    return "+Inf" if seconds == math.inf else repr(float(seconds))


def _written(family: _Family, plain: bool) -> Iterator[str]:
    name = f"sysmem_{family.name}"
    # In the older format a counter and its sample have the same name.
    head = f"{name}_total" if plain and family.kind == "counter" else name
    unit = name.rpartition("_")[2]
    yield f"# TYPE {head} {family.kind}\n"
    if unit in ("bytes", "seconds") and not plain:
        yield f"# UNIT {head} {unit}\n"
    yield f"# HELP {head} {_escaped(family.text)}\n"
    for suffix, labels, value in family.samples:
        shown = ",".join(f'{key}="{_escaped(str(each))}"' for key, each in labels.items())
        yield f"{name}{suffix}{f'{{{shown}}}' if shown else ''} {value}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
