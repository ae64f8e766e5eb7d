"""`make chaos`: hundreds of participants of several users act at random, and one daemon must keep serving correctly.

If an invariant is violated, it prints the seed and the shortest sequence of events that was found to violate it too.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .run import Broken, Event, plan, run
from .shrink import shrunk


def main() -> int:
    """Run the events of a seed. The exit status says whether something broke."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--events", help="only these of the seed's events, by number: 0,3,7")
    parser.add_argument("--tries", type=int, default=20, help="runs that may be made to shrink")
    arguments = parser.parse_args()
    events = plan(arguments.seed, arguments.seconds)
    if arguments.events:
        events = [events[int(number)] for number in arguments.events.split(",")]
    with tempfile.TemporaryDirectory(prefix="sysmem-chaos-") as name:
        Path(name).chmod(0o755)
        return _try(Path(name), arguments.seed, arguments.seconds, events, arguments.tries)


def _try(directory: Path, seed: int, seconds: float, events: Sequence[Event], tries: int) -> int:
    runs = 0

    def why(some: Sequence[Event]) -> str | None:
        nonlocal runs
        runs += 1
        end = max((event.at for event in some), default=0) + 1 if runs > 1 else seconds
        try:
            most = run(directory / str(runs), seed, end, some)
        except Broken as broken:
            return str(broken)
        if runs == 1:
            print(f"seed {seed}: {len(some)} events, everything held; at most: {most}")
        return None

    first = why(events)
    if first is None:
        return 0
    print(f"seed {seed}: {first}; looking for fewer events than {len(events)}", flush=True)
    left = shrunk(events, lambda some: why(some) is not None, tries)
    all_events = plan(seed, seconds)
    numbers = ",".join(str(all_events.index(event)) for event in left)
    for event in left:
        print(f"  {event}")
    print(f"again: make chaos SEED={seed} SECONDS={seconds:g} EVENTS={numbers}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
