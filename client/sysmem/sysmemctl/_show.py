"""`sysmemctl show`: everything about one collection."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ._nodes import participants
from ._source import ClientEnds, Data, select, snapshot
from ._text import client, console, print_json, size
from ._tree import tree

if TYPE_CHECKING:
    from rich.table import Table

#: Participants that get a column; a terminal has no room for more.
_MAX_COLUMNS = 12


def run(options: argparse.Namespace) -> int:
    """Print the tree, the constraints with the result, the settings and the buffers of a collection."""
    collection = select(snapshot(options), options.collection)
    if options.json:
        print_json(collection)
        return 0
    out = console()
    out.print(tree(collection, ClientEnds([collection])))
    table = constraints(collection)
    if table is not None:
        out.print()
        out.print(table)
    if collection["buffers"]:
        out.print()
        out.print(buffers(collection))
    return 0


def constraints(collection: Data) -> Table | None:
    """Return what each participant asked for, by field, and what came out; None if nobody has asked for anything."""
    from rich.table import Table

    asking = [node for node in participants(collection) if node["constraints"] is not None]
    columns = [dict(flat(node["constraints"])) for node in asking[:_MAX_COLUMNS]]
    result = dict(_result(collection))
    paths = list(dict.fromkeys(path for column in (*columns, result) for path in column))
    if not paths:
        return None
    made = Table(title="constraints", title_justify="left", header_style="bold")
    made.add_column("field", overflow="fold")
    for node in asking[:_MAX_COLUMNS]:
        made.add_column(f"{node['number']} {client(node)}", overflow="fold")
    made.add_column("result", overflow="fold", style="bold" if result else "")
    for path in paths:
        made.add_row(path, *(column.get(path, "") for column in columns), result.get(path, ""))
    if len(asking) > _MAX_COLUMNS:
        made.caption = f"{len(asking) - _MAX_COLUMNS} more participants: see --json"
    return made


def buffers(collection: Data) -> Table:
    """Return the buffers of a collection."""
    from rich.table import Table

    made = Table(title="buffers", title_justify="left", header_style="bold")
    for title in ("index", "size", "inode", "name", "held by"):
        made.add_column(title, overflow="fold")
    for buffer in collection["buffers"]:
        made.add_row(
            str(buffer["index"]),
            size(buffer["size"]),
            str(buffer["inode"]),
            buffer["name"],
            buffer["state"],
        )
    return made


def flat(data: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the fields of a table in JSON, by path, with their values as text."""
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
    """Yield what came out, under the paths of the constraints that it belongs to."""
    settings = collection["settings"]
    if settings is None:
        return
    yield "buffer_count", str(collection["buffer_count"])
    yield from flat(settings["buffer_settings"], "buffer_settings")
    image = settings.get("image_format_constraints")
    if image:
        yield from flat(image, "image_format_constraints[0]")
