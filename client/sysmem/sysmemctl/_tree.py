"""`sysmemctl tree`: the nodes of collections as trees."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from ._list import buffers
from ._nodes import marks, named, process_of, to_do, waited_for
from ._source import ClientEnds, Data, selected, snapshot
from ._text import age, client, console, print_json

if TYPE_CHECKING:
    from rich.text import Text
    from rich.tree import Tree

_STATE_STYLES = {"negotiating": "yellow", "allocated": "green", "failing": "red"}


def run(options: argparse.Namespace) -> int:
    """Print the tree of one collection or of each."""
    collections = selected(snapshot(options), options.collection)
    if options.json:
        print_json(
            [{"id": c["id"], "name": c["name"], "nodes": _nested(c, None)} for c in collections]
        )
        return 0
    out = console()
    if not collections:
        out.print("The daemon has no collections.")
    ends = ClientEnds(collections)
    for collection in collections:
        out.print(tree(collection, ends))
    return 0


def tree(collection: Data, ends: ClientEnds) -> Tree:
    """Return the tree of a collection, to print with rich."""
    from rich.text import Text
    from rich.tree import Tree

    state = collection["state"]
    head = Text.assemble(
        (named(collection), "bold"),
        "  ",
        (state, _STATE_STYLES.get(state, "")),
        f" for {age(collection['age_s'])}"
        if state == "negotiating"
        else f", {age(collection['age_s'])} old",
        f", {buffers(collection)}" if collection["settings"] else "",
    )
    root = Tree(head)
    waited = {node["number"] for node in waited_for(collection)}
    branches = {None: root}
    for node in collection["nodes"]:
        parent = branches.get(node["parent"], root)
        branches[node["number"]] = parent.add(_label(collection, node, ends, waited))
    return root


def _label(collection: Data, node: Data, ends: ClientEnds, waited: set[int]) -> Text:
    from rich.text import Text

    label = Text.assemble((f"{node['number']} {node['kind']}", "bold"), " ", client(node))
    process = process_of(collection, node, ends)
    if process:
        label.append(f", {process}")
    label.append(f"  {node['state']}", "dim")
    for mark in marks(node):
        label.append(f" [{mark}]", "cyan")
    if not node["connected"]:
        label.append(" [not connected]", "dim")
    if node["outcome"] not in (None, "success"):
        label.append(f"  {node['outcome']}", "red")
    if node["number"] in waited:
        label.append(f"  must {to_do(node)}", "yellow")
    return label


def _nested(collection: Data, parent: int | None) -> list[Data]:
    return [
        {**node, "children": _nested(collection, node["number"])}
        for node in collection["nodes"]
        if node["parent"] == parent
    ]
