"""What participants tell the initiator: one JSON object a line, on their standard output.

It is this example's own. Frames don't go this way (`sysmem.frames` carries them), and neither do tokens, which the
participants take at the daemon.
"""

from __future__ import annotations

import argparse
import json
from typing import Any


def tell(kind: str, **values: Any) -> None:
    """Tell the initiator something."""
    print(json.dumps({"kind": kind, **values}), flush=True)


def participants_arguments() -> argparse.ArgumentParser:
    """The options that every participant has."""
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--token", required=True, help="name under which its place in the collection is on offer"
    )
    parser.add_argument(
        "--frames", type=int, nargs="+", required=True, help="descriptors that frames go through"
    )
    return parser
