"""`sysmemctl kill-matrix`: run a pipeline of any programs, and kill each participant at each of its steps."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys

from ..testing import End, Sysmemd, kill_matrix
from ._trouble import Trouble


def run(options: argparse.Namespace) -> int:
    """Run the matrix and print it. Return 1 if a run had a fault."""
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        print(
            "sysmemctl kill-matrix: error: the command that runs the pipeline is missing",
            file=sys.stderr,
        )
        return 2

    def start(daemon: Sysmemd) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "SYSMEM_RUNTIME_DIR": os.fspath(daemon.runtime_dir)},
        )

    try:
        ends = [End[each.upper()] for each in options.end or ("killed",)]
        within = math.inf if options.within is None else options.within
        print(kill_matrix(start, victims=options.victim or None, ends=ends, within=within))
    except AssertionError as error:
        print(error)
        return 1
    except (ValueError, OSError) as error:
        raise Trouble(str(error)) from None
    return 0
