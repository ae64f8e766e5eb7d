"""The participants' messages to the initiator: one JSON object a line, on their standard output.

Only this example has them. `sysmem.frames` carries the frames, and the participants inherit their tokens.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import Any

import sysmem
from sysmem.frames import EndOfStreamError


def tell(kind: str, **values: Any) -> None:
    """Send a message to the initiator."""
    print(json.dumps({"kind": kind, **values}), flush=True)


def participants_arguments() -> argparse.ArgumentParser:
    """The options that every participant has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--token", type=int, required=True, help="descriptor of its token")
    parser.add_argument(
        "--frames", type=int, nargs="+", required=True, help="descriptors that frames go through"
    )
    return parser


def participate(main: Callable[[], None]) -> None:
    """Run a participant. If its collection or the initiator ends early, it prints one line and exits with status 1."""
    try:
        main()
    except (
        sysmem.SysmemError,
        sysmem.PeerClosedError,
        EndOfStreamError,
        BrokenPipeError,
    ) as error:
        sys.exit(f"{sys.argv[0]}: {error}")
