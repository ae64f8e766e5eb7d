"""Draw what `make bench` and `make bench-peers` measured, for docs/performance.md.

python benchmarks/plots.py BENCH.json PEERS.json DIRECTORY
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib import pyplot

Results = dict[str, Any]
_TICKS = {"sync": [0.2, 0.5, 1, 2, 5, 10], "negotiation": [2, 5, 10, 20, 50, 100]}


def main() -> int:
    bench, peers = (json.loads(Path(name).read_text()) for name in sys.argv[1:3])
    directory = Path(sys.argv[3])
    for name, draw, results in (
        ("negotiation", _negotiation, bench["negotiation"]),
        ("fairness", _fairness, bench["fairness"]),
        ("peers", _peers, peers),
    ):
        figure, axes = pyplot.subplots(1, 2, figsize=(11, 4.2), constrained_layout=True)
        draw(results, *axes)
        figure.savefig(directory / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)
    return 0


def _negotiation(rows: Results, left: Any, right: Any) -> None:
    counts = [int(count) for count in rows]
    for key, label in (
        ("negotiation_ms", "sysmem"),
        ("floor_ms", "a daemon without logic"),
        ("memfds_ms", "passing memfds"),
    ):
        left.plot(counts, [row[key] for row in rows.values()], marker="o", label=label)
    left.set(title="until all have 4 buffers mapped", ylabel="ms")
    left.set(xscale="log", yscale="log", xlabel="participants", xticks=counts)
    left.set_xticklabels(counts)
    for key, label in (("daemon_cpu_ms", "sysmem"), ("floor_cpu_ms", "a daemon without logic")):
        each = [row[key] * 1e3 / int(count) for count, row in rows.items()]
        right.plot(counts, each, marker="o", label=label)
    right.set(title="the daemon's CPU for each participant", ylabel="µs", ylim=0)
    right.set(xscale="log", xlabel="participants", xticks=counts)
    right.set_xticklabels(counts)
    for axis in (left, right):
        axis.minorticks_off()
        axis.grid(visible=True, alpha=0.3)
        axis.legend()


def _fairness(rows: Results, left: Any, right: Any) -> None:
    names = list(rows)
    for axis, what in ((left, "sync"), (right, "negotiation")):
        for offset, phase in ((-0.25, "quiet"), (0.0, "control"), (0.25, "abused")):
            places = [index + offset for index in range(len(names))]
            found = [rows[name][what][phase] for name in names]
            axis.barh(places, [times["p99_ms"] for times in found], height=0.24, label=phase)
            axis.plot([times["p50_ms"] for times in found], places, "k|")
        axis.set(title=f"{what} of another user: p99, and p50 as |", xlabel="ms", xscale="log")
        axis.set_xticks(_TICKS[what], _TICKS[what])
        axis.minorticks_off()
        axis.set_yticks(range(len(names)), names)
        axis.invert_yaxis()
        axis.grid(visible=True, axis="x", alpha=0.3)
        axis.legend()


def _peers(rows: Results, left: Any, right: Any) -> None:
    counts = [count for count in rows if count.isdigit()]
    names = list(rows[counts[0]])
    width = 0.8 / len(names)
    for index, name in enumerate(names):
        places = [place + index * width for place in range(len(counts))]
        left.bar(places, [rows[count][name]["negotiation_ms"] for count in counts], width)
        if "round_trip_us" in rows[counts[0]][name]:
            right.bar(index, min(rows[count][name]["round_trip_us"] for count in counts))
    left.set(title="until all have 4 buffers mapped", ylabel="ms", yscale="log")
    left.set_xticks([place + 0.3 for place in range(len(counts))], counts)
    left.set(xlabel="participants")
    left.legend(names)
    right.set(title="a round trip", ylabel="µs")
    right.set_xticks(range(len(names)), names, rotation=20)
    for axis in (left, right):
        axis.grid(visible=True, axis="y", alpha=0.3)


if __name__ == "__main__":
    sys.exit(main())
