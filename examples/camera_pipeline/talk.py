"""What participants tell the initiator: one JSON object a line, on their standard output.

It is this example's own. Frames don't go this way (`sysmem.frames` carries them), and neither do tokens, which the
participants inherit.
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
    """Tell the initiator something."""
    print(json.dumps({"kind": kind, **values}), flush=True)


def participants_arguments() -> argparse.ArgumentParser:
    """The options that every participant has."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--token", type=int, required=True, help="descriptor of its place in the collection"
    )
    parser.add_argument(
        "--frames", type=int, nargs="+", required=True, help="descriptors that frames go through"
    )
    return parser


def participate(main: Callable[[], None]) -> None:
    """Run a participant, which ends with a line and status 1 if its collection or the initiator ends before it does."""
    try:
        main()
    except (
        sysmem.SysmemError,
        sysmem.PeerClosedError,
        EndOfStreamError,
        BrokenPipeError,
    ) as error:
        sys.exit(f"{sys.argv[0]}: {error}")
