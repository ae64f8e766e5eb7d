"""`sysmemctl explain`: the result of constraints in a file, without a daemon."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys

from sysmemd.explain import load, work_out  # the daemon's engine; only this command needs it

from ._text import console, print_json, print_report
from ._trouble import Trouble

#: The minimum and maximum width of a cell in the report's tables, in characters.
_NARROWEST, _WIDEST = 12, 36


def run(options: argparse.Namespace) -> int:
    """Print the result of the constraints. Return 2 if the file is invalid."""
    columns = shutil.get_terminal_size((120, 24)).columns
    width = max(_NARROWEST, min(_WIDEST, columns // 4))
    try:
        result = work_out(load(options.file), width)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"sysmemctl: {options.file}: {reason}", file=sys.stderr)
        return 2
    if options.json:
        print_json(result.data)
    else:
        _show(f"{'agreed' if result.agreed else 'refused'}\n\n{result.report}")
    return 0 if result.agreed else 1


def _show(text: str) -> None:
    """Print a report, fitted to the terminal if there is one and the drawing library is installed."""
    if sys.stdout.isatty():
        with contextlib.suppress(Trouble):
            print_report(console(), text)
            return
    print(text)
