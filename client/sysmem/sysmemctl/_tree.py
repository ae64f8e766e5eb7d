"""`sysmemctl tree`: the nodes of collections as trees."""

from __future__ import annotations

import argparse
from collections.abc import Container, Iterator
from typing import TYPE_CHECKING

from ._list import buffers
from ._nodes import marks, named, process_of, to_do
from ._source import ClientEnds, Data, selected, snapshot
from ._text import age, client, console, print_json, remark

if TYPE_CHECKING:
    from rich.tree import Tree

_STATE_STYLES = {"negotiating": "yellow", "allocated": "green", "failing": "red"}


def run(options: argparse.Namespace) -> int:
    """Print the trees of one or all collections."""
    collections = selected(snapshot(options), options.collection)
    if options.json:
        print_json([{"id": c["id"], "name": c["name"], "nodes": _nested(c)} for c in collections])
        return 0
    out = console()
    if not collections:
        remark("the daemon has no collections")
    ends = ClientEnds(collections)
    for collection in collections:
        out.print(tree(collection, ends))
    return 0


def tree(collection: Data, ends: ClientEnds) -> Tree:
    """Return the tree of a collection, to be printed with rich."""
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
    waited = set(collection["waiting_for"])
    branches = {None: root}
    for node in collection["nodes"]:
        parent = branches.get(node["parent"], root)
        branches[node["number"]] = parent.add(Text.assemble(*label(collection, node, ends, waited)))
    return root


def label(
    collection: Data, node: Data, ends: ClientEnds, waited: Container[int]
) -> Iterator[tuple[str, str]]:
    """Yield the styled parts of a node's description. `waited` has the numbers of nodes that are waited for."""
    yield f"{node['number']} {node['kind']}", "bold"
    yield f" {client(node)}", ""
    if process := process_of(collection, node, ends):
        yield f", {process}", ""
    yield f"  {node['state']}", "dim"
    for mark in marks(node):
        yield f" [{mark}]", "cyan"
    if not node["connected"]:
        yield " [not connected]", "dim"
    if node["outcome"] not in (None, "success"):
        yield f"  {node['outcome']}", "red"
    if node["number"] in waited:
        yield f"  must {to_do(node)}", "yellow"


def _nested(collection: Data) -> list[Data]:
    """Return the nodes without a parent, each with its descendants as `children`."""
    roots: list[Data] = []
    below = {None: roots}
    for node in collection["nodes"]:
        children = below[node["number"]] = []
        below.get(node["parent"], roots).append({**node, "children": children})
    return roots
