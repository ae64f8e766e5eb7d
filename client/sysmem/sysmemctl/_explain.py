"""`sysmemctl explain`: what constraints in a file come to, without a daemon."""

from __future__ import annotations

import argparse
import shutil
import sys

from sysmemd.explain import load, work_out  # the engine is the daemon's: only this command needs it

from ._text import print_json

#: Characters of a cell in the report's tables: as many as fit, within these bounds.
_NARROWEST, _WIDEST = 12, 36


def run(options: argparse.Namespace) -> int:
    """Print what the constraints come to; 2 if the file is at fault."""
    columns = shutil.get_terminal_size((120, 24)).columns
    width = max(_NARROWEST, min(_WIDEST, columns // 4))
    try:
        result = work_out(load(options.file), width)
    except (OSError, ValueError, RecursionError) as error:
        print(f"sysmemctl: {options.file}: {error}", file=sys.stderr)
        return 2
    if options.json:
        print_json(result.data)
    else:
        print(f"{'agreed' if result.agreed else 'refused'}\n\n{result.report}")
    return 0 if result.agreed else 1
