"""`sysmemctl export`: the constraints of a collection, in the format that `explain` reads."""

from __future__ import annotations

import argparse

from ._source import inspector, select
from ._text import print_json


def run(options: argparse.Namespace) -> int:
    """Print the constraints of the participants of a living or ended collection."""
    with inspector(options) as connected:
        data = connected.snapshot(timeout=options.timeout)
        collection = select(data, options.collection, ended=True)
        print_json(connected.explain(collection["id"], timeout=options.timeout)["case"])
    return 0
