"""Everything that is measured, in one command: `make bench`. JSON to stdout, or to the file named.

Round trips and negotiations come with floors measured in the same run; the ratio to them is what to compare between
machines. `python benchmarks/constraints.py --plot FILE.png` draws how aggregation grows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from pathlib import Path

import constraints
import frames
import negotiation
import round_trip

from sysmem.testing import sysmemd


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="where to write the JSON")
    arguments = parser.parse_args()
    with sysmemd() as daemon:
        results = {
            "machine": {
                "kernel": platform.release(),
                "python": platform.python_version(),
                "cpus": os.cpu_count(),
            },
            "sync_round_trip": round_trip.measure(daemon.runtime_dir, daemon.pid),
            "negotiation": negotiation.measure(daemon.runtime_dir),
            "frames": frames.measure(daemon.runtime_dir, daemon.pid),
            "aggregation": constraints.measure(repeat=3),
        }
    text = json.dumps(results, indent=2)
    if arguments.out:
        arguments.out.write_text(text + "\n")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
