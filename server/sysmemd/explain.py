"""`python -m sysmemd.explain FILE.json`: what constraints come to, and why.

The file holds the constraints of several named participants (:mod:`sysmemd.explaining.from_json` describes it;
`examples/constraints/` has some). Exit status: 0 if they agree, 1 if they don't, 2 if the file is at fault.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from .constraints import Refusal, aggregate
from .explaining import Diagnosis, explain, read_case


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report of one file; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sysmemd.explain",
        description="Explain what the constraints of several participants come to.",
    )
    parser.add_argument("file", type=Path, help="JSON with the participants' constraints")
    parser.add_argument(
        "--width", type=int, default=36, help="characters of a cell (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal may not know what sizes and participants' names are written with.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        participants, platform = read_case(json.loads(options.file.read_bytes()))
    except (OSError, ValueError, RecursionError) as error:
        return _fault(f"{options.file}: {error}")
    result = aggregate(participants, platform)
    if isinstance(result, Refusal):
        print(f"refused\n\n{Diagnosis(result).report(options.width)}")
        return 1
    print(f"agreed\n\n{explain(result).report(options.width)}")
    return 0


def _fault(message: str) -> int:
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
