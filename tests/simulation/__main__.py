"""`make simulate`: run seeds on all processors, and print the failing seeds with the end of their traces."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time

from .run import Trace, Violation, simulate


def main() -> int:
    """Run the seeds. The exit status says whether one failed."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("seeds", nargs="?", default="0-5000", help="one seed, or FIRST-LAST")
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    arguments = parser.parse_args()
    first, _, last = arguments.seeds.partition("-")
    seeds = range(int(first), int(last or first) + 1)
    began = time.monotonic()
    failed, steps, faults = [], 0, 0
    with multiprocessing.get_context("fork").Pool(
        min(len(seeds), 2 * (os.cpu_count() or 1))
    ) as pool:
        for seed, outcome in zip(seeds, pool.imap(_run, seeds, chunksize=8), strict=False):
            if isinstance(outcome, str):
                failed.append(seed)
                print(outcome, flush=True)
                continue
            steps += outcome.steps
            faults += outcome.faults
            if arguments.trace:
                print("\n".join(outcome.lines))
    seconds = time.monotonic() - began
    print(
        f"{len(seeds)} seeds, {steps} steps, {faults} faults in {seconds:.0f} s "
        f"({len(seeds) / seconds * 60:.0f} seeds a minute); {len(failed)} failed: {failed}"
    )
    return 1 if failed else 0


def _run(seed: int) -> Trace | str:
    """Run one seed. Return its trace, or the reason for its failure."""
    try:
        return simulate(seed)
    except Violation as violation:
        return str(violation)
    except BaseException as error:  # the daemon raised this exception
        return f"seed {seed}: {error!r}"


if __name__ == "__main__":
    sys.exit(main())
