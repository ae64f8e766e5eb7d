"""Write what `make bench` and `make bench-peers` measured into the tables of pages.

python benchmarks/figures.py BENCH.json PEERS.json docs/performance.md docs/compared.md

Replaces the rows of each table that follows `<!-- figures: NAME -->`, and keeps its head. The text around the tables is
written by hand and contains no measured figures.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

Results = dict[str, Any]
Row = tuple[object, ...]


def shown(value: object) -> str:
    """Return a number rounded to two significant digits."""
    if not isinstance(value, float):
        return str(value)
    digits = 1 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:,.{max(0, digits)}f}"


def _round_trip(bench: Results) -> Iterator[Row]:
    found = bench["sync_round_trip"]
    sync, echo = found["sync"], found["trio_cbor2_echo"]
    keys = ("wall_us", "client_cpu_us", "server_cpu_us")
    for name, times in (
        ("Sync", sync),
        ("trio and cbor2 echo", echo),
        ("raw echo", found["raw_echo"]),
    ):
        yield (name, *(f"{shown(times[key])} µs" for key in keys))
    ratios = (sync[key] / echo[key] for key in keys)
    yield ("Sync ÷ echo (goal 1.5; of the server's CPU 1.7)", *ratios)


def _negotiation(bench: Results) -> Iterator[Row]:
    for count, row in bench["negotiation"].items():
        times = (f"{shown(row[key])} ms" for key in ("negotiation_ms", "floor_ms", "memfds_ms"))
        yield (count, *times, row["cpu_ratio_to_floor"])


def _peers(peers: Results) -> Iterator[Row]:
    counts = [count for count in peers if count.isdigit()]
    names = list(peers[counts[0]])
    for count in counts:
        times = (peers[count][name]["negotiation_ms"] for name in names)
        yield (count, *(f"{shown(time)} ms" for time in times))
    trips = [[peers[count][name].get("round_trip_us") for count in counts] for name in names]
    yield (
        "round trip",
        *("" if None in each else f"{min(each):.0f}–{max(each):.0f} µs" for each in trips),
    )


def _nodes(bench: Results) -> Iterator[Row]:
    found = bench["nodes"]
    yield "make one", f"{shown(found['make_cpu_us'])} µs of CPU", 60
    yield "fail one", f"{shown(found['fail_cpu_us'])} µs of CPU", 60
    yield "keep one", f"{shown(found['bytes'] / 1024)} KiB", 5
    yield "wake-ups a second of an idle daemon", f"{found['wake_ups_a_second']:.0f}", 0
    yield "the last ÷ the first", found["last_to_first_ratio"], 1


def _killed(bench: Results) -> Iterator[Row]:
    found = bench["killed"]
    yield "four others know, p50", f"{shown(found['known_p50_ms'])} ms", ""
    yield "four others know, p99", f"{shown(found['known_p99_ms'])} ms", 5
    yield "the daemon's CPU", f"{shown(found['daemon_cpu_ms'])} ms", 1


def _start(bench: Results) -> Iterator[Row]:
    found = bench["start"]
    for what, key, goal in (
        ("importing `sysmem`, beyond the interpreter's start", "import_ms", 60),
        ("`sysmemctl ping`", "ping_ms", 120),
        ("the daemon serves, after exec", "serving_ms", 300),
    ):
        yield what, f"{found[key]:.0f} ms", goal


def _kit(bench: Results) -> Iterator[Row]:
    found = bench["kit"]
    for what, key, goal in (
        ("a daemon in the test's own loop, until it serves", "daemon_in_loop_ms", 5),
        (
            "three participants there, from connecting to their buffers",
            "negotiation_of_three_ms",
            10,
        ),
        (
            "four peers, each in a process, from the first start to mapped buffers",
            "four_peers_ms",
            300,
        ),
    ):
        yield what, f"{shown(found[key])} ms", goal


def _snapshots(bench: Results) -> Iterator[Row]:
    found = bench["snapshots"]
    for what, key in (
        ("the daemon works while a Sync waits", "daemon_worked_ms"),
        ("a Sync", "wait_ms"),
    ):
        yield (
            what,
            *(_halves(found[when], f"{key}_p50", f"{key}_p99") for when in ("quiet", "busy")),
        )


def _fairness(bench: Results) -> Iterator[Row]:
    for row in bench["fairness"].values():
        cells = (
            _halves(row[what][phase], "p50_ms", "p99_ms")
            for what in ("sync", "negotiation")
            for phase in ("quiet", "abused")
        )
        yield (row["what"].rstrip("."), *cells, "yes" if row["passes"] else "no")


def _halves(times: Results, p50: str, p99: str) -> str:
    return f"{shown(times[p50])} / {shown(times[p99])}"


TABLES: dict[str, Callable[[Results], Iterator[Row]]] = {
    "round_trip": _round_trip,
    "negotiation": _negotiation,
    "nodes": _nodes,
    "killed": _killed,
    "snapshots": _snapshots,
    "start": _start,
    "kit": _kit,
    "fairness": _fairness,
}


def filled(page: str, name: str, rows: Iterable[Row]) -> str:
    """Return a page in which the rows of one table are replaced."""
    table = re.compile(rf"(<!-- figures: {name} -->\n\n?\|[^\n]*\n\|[^\n]*\n)(?:\|[^\n]*\n)*")
    lines = "".join(f"| {' | '.join(map(shown, row))} |\n".replace("  ", " ") for row in rows)
    page, count = table.subn(lambda match: match[1] + lines, page)
    if count != 1:
        raise ValueError(f"the page has {count} tables of {name}")
    return page


def main() -> int:
    """Update the pages."""
    bench, peers = (json.loads(Path(name).read_text()) for name in sys.argv[1:3])
    found = {name: list(rows(bench)) for name, rows in TABLES.items()}
    found["peers"] = list(_peers(peers))
    for path in map(Path, sys.argv[3:]):
        page = path.read_text()
        for name in re.findall("<!-- figures: (.+) -->", page):
            page = filled(page, name, found[name])
        path.write_text(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
