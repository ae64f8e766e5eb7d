"""Run all benchmarks: `make bench`. Writes a table to stderr, and JSON to stdout or to the named file.

Values that are compared with each other are measured in the same run. Only their ratios can be compared between
machines. docs/performance.md explains each row. `python benchmarks/constraints.py --plot FILE.png` draws how
aggregation grows.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import abuses
import constraints
import fairness
import frames
import killed
import kit
import negotiation
import nodes
import round_trip
import snapshots
import start
from daemons import daemon
from measure import machine, write

#: Each gets the runtime directory and the process id of its own daemon.
SECTIONS: dict[str, Callable[[Path, int], Any]] = {
    "sync_round_trip": round_trip.measure,
    "negotiation": negotiation.measure,
    "nodes": nodes.measure,
    "snapshots": snapshots.measure,
    "killed": killed.measure,
    "kit": kit.measure,
    "start": lambda *_: start.measure(),
    "frames": frames.measure,
    "aggregation": lambda *_: constraints.measure(repeat=1),
    "fairness": lambda *_: _fairness(),
}


def _fairness() -> Any:
    if os.geteuid() != 0:
        return "only root can be two other users"
    return fairness.measure(list(abuses.ABUSES), seconds=1.0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=f"of {', '.join(SECTIONS)}; all by default")
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    arguments = parser.parse_args()
    results: dict[str, Any] = {"machine": machine()}
    for name in arguments.sections or SECTIONS:
        with daemon() as served:
            results[name] = SECTIONS[name](served.runtime_dir, served.pid)
        if name != "fairness":  # it reports its rows as it runs
            print(*_table(name, results[name]), sep="\n", file=sys.stderr)
    write(results, arguments.out)
    return 0


def _table(path: str, value: Any) -> Iterator[str]:
    """Yield a line for each number, except for the aggregations, whose many numbers are only plotted."""
    if isinstance(value, dict):
        for key, member in value.items():
            yield from _table(f"{path}.{key}", member)
    elif isinstance(value, float):
        yield f"{path:60} {value:12.2f}"
    elif not isinstance(value, list):
        yield f"{path:60} {value!s:>12}"


if __name__ == "__main__":
    sys.exit(main())
