"""`python -m sysmemd.explain FILE.json`, and `sysmemctl explain`: the result of constraints, with the reasons.

The file has the constraints of several named participants (:mod:`sysmemd.cases` describes the format;
`examples/constraints/` has examples). Exit status: 0 if they agree, 1 if they do not, 2 if the file is invalid.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .cases import read_case
from .explaining import Diagnosis, explain
from .negotiation import Negotiation
from .tree import Allocated

#: The file name that means standard input.
_STDIN = "-"


@dataclass(frozen=True)
class Result:
    """The result of a case."""

    agreed: bool
    #: The reason of a refusal in one line; empty if they agree.
    line: str
    #: The complete report as text.
    report: str
    #: The same as data for programs.
    data: dict[str, Any]


def work_out(case: object, width: int) -> Result:
    """Return the result of a case, given as parsed JSON. `width` is the maximum length of a cell in the report.

    Raises `ValueError` if the case does not have the format of :mod:`sysmemd.cases`.
    """
    members, platform = read_case(case)
    negotiation = Negotiation(members, platform)
    attempt = negotiation.attempt
    data: dict[str, Any] = {"schema": 1, "outcome": "success", "line": attempt.reason}
    if attempt.error is not None:
        refusal = attempt.refused[0].refusal
        assert isinstance(refusal, Diagnosis)
        data |= {
            "outcome": attempt.error.name,
            "rule": refusal.rule.name,
            "conflict": [{"name": who.name, "id": who.id} for who in refusal.conflict],
        }
        return Result(False, attempt.reason, refusal.report(width), data)
    allocation = negotiation.collection.allocation
    assert allocation is not None
    data |= {
        "settings": allocation.settings.to_dict(),
        "buffer_count": allocation.buffer_count,
        "participants": [
            {"name": who.name, "id": who.id}
            for who, node in negotiation.nodes
            if isinstance(node.outcome, Allocated)
        ],
    }
    return Result(True, "", explain(allocation).report(width), data)


def load(name: str) -> object:
    """Return the JSON in a file, or on standard input for `-`. Raises `OSError`, and `ValueError` for invalid JSON."""
    text = sys.stdin.buffer.read() if name == _STDIN else Path(name).read_bytes()
    return json.loads(text)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the report of one file. Return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m sysmemd.explain",
        description="Explain what the constraints of several participants come to.",
    )
    parser.add_argument("file", help="JSON with the participants' constraints; - for stdin")
    parser.add_argument(
        "--width", type=int, default=36, help="characters of a cell (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # The terminal may not support all characters of sizes and participants' names.
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        result = work_out(load(options.file), options.width)
    except (OSError, ValueError, RecursionError) as error:
        print(f"{options.file}: {error}", file=sys.stderr)
        return 2
    print(f"{'agreed' if result.agreed else 'refused'}\n\n{result.report}")
    return 0 if result.agreed else 1


if __name__ == "__main__":
    sys.exit(main())
