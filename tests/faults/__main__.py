"""`make faults`: have every system call of the daemon fail, one at a time, and print what was tried and what broke."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path

from .faults import ERRORS, plan
from .harness import Broken, Target, strike_all


def main() -> int:
    """Try the faults; the exit status says whether anything broke."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument(
        "--most", type=int, default=12, help="occurrences of each call and error (0: all)"
    )
    parser.add_argument("--call", help="only this system call")
    parser.add_argument("--table", type=Path, help="write the table of what was tried here")
    arguments = parser.parse_args()
    tried: Counter[tuple[str, str]] = Counter()
    broken: list[Broken] = []
    with tempfile.TemporaryDirectory(prefix="sysmem-faults-") as name:
        for allocation in ("lazy", "eager"):
            directory = Path(name, allocation)
            target = Target(directory / "counted", allocation)
            counts = target.counts()
            target.close()
            faults = [
                fault
                for fault in plan(counts, arguments.most or None)
                if arguments.call in (None, fault.call)
            ]
            print(f"{allocation}: {len(faults)} faults", flush=True)
            for fault, error in strike_all(directory, allocation, faults):
                tried[fault.call, fault.error] += 1
                if error is not None:
                    broken.append(error)
                    print(error, flush=True)
    text = table(tried)
    if arguments.table:
        arguments.table.write_text(text)
    print(text)
    print(f"{tried.total()} faults tried, {len(broken)} broke something")
    return 1 if broken else 0


def table(tried: Counter[tuple[str, str]]) -> str:
    """Return how often each call failed with each error, as a table."""
    lines = ["| system call | errors, and at how many places each |", "| --- | --- |"]
    for call, errors in ERRORS.items():
        found = [f"{error} {tried[call, error]}" for error in errors if tried[call, error]]
        if found:
            lines.append(f"| `{call}` | {', '.join(found)} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
