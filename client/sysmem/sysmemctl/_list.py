"""`sysmemctl list`: a line for each collection."""

from __future__ import annotations

import argparse

from ._nodes import participants, process_of, waited_for
from ._source import ClientEnds, Data, snapshot
from ._text import age, client, console, print_json, print_table, printable, remark, size


def run(options: argparse.Namespace) -> int:
    """Print the living collections."""
    collections: list[Data] = snapshot(options)["collections"]
    if options.json:
        print_json([_row_data(collection) for collection in collections])
        return 0
    if not collections:
        remark("the daemon has no collections")
        return 0
    out = console()
    ends = ClientEnds([each for each in collections if each["waiting_for"]])
    rows = [_row(collection, ends) for collection in collections]
    print_table(out, "", _TITLES, rows)
    return 0


_TITLES = ("id", "name", "state", "age", "participants", "buffers", "waits for")


def _row(collection: Data, ends: ClientEnds) -> tuple[str, ...]:
    return (
        str(collection["id"]),
        printable(collection["name"]) or "–",
        collection["state"],
        age(collection["age_s"]),
        str(len(participants(collection))),
        buffers(collection),
        waits(collection, ends),
    )


def waits(collection: Data, ends: ClientEnds) -> str:
    """Return the first two participants that the allocation waits for; empty if it waits for none."""
    waiting = [
        f"{client(node)} {process_of(collection, node, ends)}".strip()
        for node in waited_for(collection)
    ]
    more = len(waiting) - 2
    return "; ".join(waiting[:2]) + (f"; {more} more" if more > 0 else "")


def buffers(collection: Data) -> str:
    """Return the number and size of a collection's buffers."""
    settings = collection["settings"]
    if settings is None or collection["buffer_count"] is None:
        return "–"
    each = settings["buffer_settings"]["raw_vmo_size"]
    return f"{collection['buffer_count']} × {size(each)}"


def _row_data(collection: Data) -> Data:
    keys = ("id", "name", "state", "age_s", "uid", "waiting_for", "buffer_count")
    settings = collection["settings"]
    return {key: collection[key] for key in keys} | {
        "participants": len(participants(collection)),
        "buffer_bytes": settings and settings["buffer_settings"]["raw_vmo_size"],
    }
