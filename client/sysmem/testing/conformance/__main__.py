"""`python -m sysmem.testing.conformance COMMAND…`: check a client for conformance, and report what is wrong."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import CHECKS, PATIENCE_SECONDS, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the checks and print the report. Return 0 if all passed, 1 if not, 2 for an invalid command line."""
    parser = argparse.ArgumentParser(
        prog="python -m sysmem.testing.conformance",
        description="Check a client of the sysmem protocol by means of its agent; see docs/conformance.md.",
    )
    parser.add_argument(
        "--only", action="append", metavar="CHECK", help="run this check only; may be repeated"
    )
    parser.add_argument("--list", action="store_true", help="list the checks and exit")
    parser.add_argument(
        "--patience",
        type=float,
        default=PATIENCE_SECONDS,
        metavar="SECONDS",
        help="how long the agent may take for each answer (default: %(default)g)",
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, help="the command that starts the agent"
    )
    options = parser.parse_args(arguments)
    if options.list:
        for check in CHECKS:
            print(f"{check.name:32} {check.rule}")
        return 0
    known = {check.name: check for check in CHECKS}
    if unknown := [name for name in options.only or () if name not in known]:
        parser.error(f"there is no check {', '.join(unknown)}; --list lists them")
    if not options.command:
        parser.error("the command that starts the agent is missing")
    checks = [known[name] for name in options.only] if options.only else CHECKS
    report = run(options.command, checks=checks, patience=options.patience)
    print(report)
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
