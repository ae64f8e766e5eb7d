"""`sysmemctl show`: everything about one collection."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ._nodes import participants
from ._source import ClientEnds, Data, select, snapshot
from ._text import client, console, print_json, print_table, printable, size
from ._tree import tree

if TYPE_CHECKING:
    from rich.console import Console


def run(options: argparse.Namespace) -> int:
    """Print the tree, the constraints with the result, the settings and the buffers of a collection."""
    collection = select(snapshot(options), options.collection)
    if options.json:
        print_json(collection)
        return 0
    print_all(console(), collection, ClientEnds([collection]))
    return 0


def print_all(out: Console, collection: Data, ends: ClientEnds) -> None:
    """Print everything about a collection."""
    out.print(tree(collection, ends))
    out.print()
    print_constraints(out, collection)
    if collection["buffers"]:
        out.print()
        header, *rows = buffers_table(collection)
        print_table(out, "buffers", header, rows)


def print_constraints(out: Console, collection: Data) -> None:
    """Print each participant's constraints by field, and the result."""
    header, *rows = constraints_table(collection)
    if rows:
        print_table(out, "constraints", header, rows)
    else:
        out.print("No participant has set constraints yet.")


def constraints_table(collection: Data) -> list[list[str]]:
    """Return each participant's constraints by field, and the result. The first row is the header."""
    asking = [node for node in participants(collection) if node["constraints"] is not None]
    columns = [dict(flat(node["constraints"])) for node in asking]
    result = dict(_result(collection))
    paths = dict.fromkeys(path for column in (*columns, result) for path in column)
    header = ["field", *(f"{node['number']} {client(node)}" for node in asking), "result"]
    return [
        header,
        *([path, *(each.get(path, "") for each in (*columns, result))] for path in paths),
    ]


def buffers_table(collection: Data) -> list[list[str]]:
    """Return the table of buffers. The first row is the header."""
    rows = [
        [str(b["index"]), size(b["size"]), str(b["inode"]), printable(b["name"]), b["state"]]
        for b in collection["buffers"]
    ]
    return [["index", "size", "inode", "name", "held by"], *rows]


def flat(data: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields of a JSON table as paths and texts."""
    if isinstance(data, dict):
        for key, value in data.items():
            yield from flat(value, f"{path}.{key}" if path else key)
    elif isinstance(data, list) and any(isinstance(each, dict) for each in data):
        for index, value in enumerate(data):
            yield from flat(value, f"{path}[{index}]")
    elif isinstance(data, list):
        yield path, ", ".join(map(_value, data))
    else:
        yield path, _value(data)


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " × ".join(map(_value, value))
    return str(value)


def _result(collection: Data) -> Iterator[tuple[str, str]]:
    """Yield the resulting settings, under the paths of the corresponding constraints."""
    settings = collection["settings"]
    if settings is None:
        return
    yield "buffer_count", str(collection["buffer_count"])
    yield from flat(settings["buffer_settings"], "buffer_settings")
    image = settings.get("image_format_constraints")
    if image:
        yield from flat(image, "image_format_constraints[0]")
