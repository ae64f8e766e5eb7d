"""Descriptions of nodes in words, and of what the allocation waits for."""

from __future__ import annotations

import os
from collections.abc import Sequence

from sysmem_protocol.processes import Process

from ._source import ClientEnds, Data
from ._text import client, count, printable

#: What a node that is not ready must do, by kind (`docs/spec/allocation.md`, "Ready").
_TO_DO = {
    "token": "turn in its token",
    "collection": "set constraints",
    "group": "declare that all children are present",
}


def named(collection: Data) -> str:
    """Return a collection's name and id."""
    return f"{printable(collection['name']) or 'collection without a name'} ({collection['id']})"


def participants(collection: Data) -> list[Data]:
    """Return the nodes that have constraints of their own, or may still set them."""
    return [node for node in collection["nodes"] if node["kind"] != "group"]


def waited_for(collection: Data) -> list[Data]:
    """Return the nodes that are not ready, and that the allocation waits for."""
    numbers = set(collection["waiting_for"])
    return [node for node in collection["nodes"] if node["number"] in numbers]


def to_do(node: Data) -> str:
    """Return what a node must do before the allocation can continue."""
    if node["released"]:
        return "close its released client end"
    return _TO_DO[node["kind"]]


def process_of(collection: Data, node: Data, ends: ClientEnds) -> str:
    """Return the processes that have a node's client end now, or the one that created the node if none is visible."""
    holders = ends.of(collection, node)
    if holders:
        shown = ", ".join(_process(each) for each in holders[:3])
        return shown + (f" and {len(holders) - 3} more" if len(holders) > 3 else "")
    if node["pid"] is None:
        return ""
    return f"made by {_process(Process(node['pid'], node['uid'], node['command'] or ''))}"


def who(collection: Data, node: Data, ends: ClientEnds) -> str:
    """Return the name of a node's client, and its process."""
    process = process_of(collection, node, ends)
    return f"{client(node)}, {process}" if process else client(node)


def marks(node: Data) -> list[str]:
    """Return the special properties of a node."""
    found = []
    if node["weak"]:
        found.append("weak")
    isolation = {
        "propagate before allocation": "dispensable",
        "do not propagate": "attached",
    }.get(node["isolation"])
    if isolation:
        found.append(isolation)
    if node["must_match"]:
        found.append("must match a VMO")
    return found


def unseen(processes: Sequence[Process]) -> str:
    """Return a sentence about processes that the caller is not permitted to inspect."""
    shown = ", ".join(map(_process, processes[:3])) + (", …" if len(processes) > 3 else "")
    advice = "; run this as root to see all" if os.geteuid() else ""
    return (
        f"{count(len(processes), 'process', 'processes')} could not be inspected ({shown}){advice}."
    )


def _process(process: Process) -> str:
    return f"{printable(process.command) or 'process'} [{process.pid}]"
