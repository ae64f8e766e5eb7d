"""A daemon's snapshot as OpenMetrics text, for Prometheus and others (`docs/spec/inspect.md`, "sysmemctl")."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, TypeAlias

#: Users that have series of their own, those with the most memory; the others are one.
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


def exposition(snapshot: Mapping[str, Any]) -> str:
    """Return the metrics of a daemon, from its Inspector's snapshot of everything."""
    return "".join(_lines(snapshot))


def _lines(snapshot: Mapping[str, Any]) -> Iterator[str]:
    totals, counters, daemon = snapshot["totals"], snapshot["counters"], snapshot["daemon"]
    for name, text in _COUNTED.items():
        yield from _family(name, "gauge", text, [("", {}, totals[name])])
    for name, text in _COUNTED.items():
        samples = [("", labels, counts[name]) for labels, counts in _users(snapshot["users"])]
        yield from _family(f"user_{name}", "gauge", f"{text} By user.", samples)
    heaps = [({"heap_type": h["heap_type"], "id": h["id"]}, h) for h in snapshot["heaps"]]
    for name in ("buffers", "bytes"):
        samples = [("", labels, heap[name]) for labels, heap in heaps]
        yield from _family(f"heap_{name}", "gauge", f"{_COUNTED[name]} By heap.", samples)
    open_ = daemon["descriptors"]["open"]
    yield from _family("open_descriptors", "gauge", "Open descriptors.", [("", {}, open_)])
    messages = [
        ("_total", {"direction": direction}, counters["messages"][direction])
        for direction in ("in", "out")
    ]
    yield from _family("messages", "counter", "Messages from and to clients.", messages)
    for name, label, text in (
        ("attempts", "outcome", "Attempts to allocate."),
        ("refusals", "rule", "Refused attempts, by the rule that was broken."),
        ("ended", "how", "Collections that have ended."),
    ):
        samples = [("_total", {label: key}, count) for key, count in counters[name].items()]
        yield from _family(name, "counter", text, samples)
    yield from _histogram(
        "negotiation_seconds",
        "How long collections take from their creation to the end of their first attempt.",
        counters["negotiation_seconds"],
    )
    yield "# EOF\n"


def _users(users: list[Mapping[str, Any]]) -> Iterator[tuple[_Labels, Mapping[str, float]]]:
    ranked = sorted(users, key=lambda user: (-user["bytes"], user["uid"]))
    for user in ranked[:MAX_USERS]:
        yield {"uid": user["uid"], "name": user["name"] or ""}, user
    if others := ranked[MAX_USERS:]:
        summed = {name: sum(user[name] for user in others) for name in _COUNTED}
        yield {"uid": "others", "name": ""}, summed


def _histogram(name: str, text: str, histogram: Mapping[str, Any]) -> Iterator[str]:
    buckets = [("_bucket", {"le": bound}, count) for bound, count in histogram["buckets"]]
    samples = [*buckets, ("_count", {}, histogram["count"]), ("_sum", {}, histogram["sum"])]
    yield from _family(name, "histogram", text, samples)


def _family(name: str, kind: str, text: str, samples: Iterable[_Sample]) -> Iterator[str]:
    yield f"# TYPE sysmem_{name} {kind}\n"
    unit = name.rpartition("_")[2]
    if unit in ("bytes", "seconds"):
        yield f"# UNIT sysmem_{name} {unit}\n"
    yield f"# HELP sysmem_{name} {_escaped(text)}\n"
    for suffix, labels, value in samples:
        shown = ",".join(f'{key}="{_escaped(str(each))}"' for key, each in labels.items())
        yield f"sysmem_{name}{suffix}{f'{{{shown}}}' if shown else ''} {value}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
