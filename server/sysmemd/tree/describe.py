"""Nodes and trees as text for the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from ..pause import giving_way
from ..text import Block
from .data import NodeData
from .state import READY, Isolation, NodeKind, State
from .walk import all_children, depth_first, joined_children

#: The maximum indentation of a tree, in levels, because a chain of thousands of nodes would become megabytes of spaces.
MAX_INDENT: Final = 32


def who(node: NodeData) -> dict[str, Any]:
    """Return the fields that every log entry about a node has."""
    return {
        "node": f"{node.kind.value} {node.number}",
        "client_name": node.client.name,
        "client_id": node.client.id,
    }


def tree(root: NodeData) -> Block:
    """Return the tree, one line a node, children indented under their parent."""
    return Block(
        "\n".join(
            "  " * min(node.depth, MAX_INDENT) + describe(node)
            for node in giving_way(depth_first(root, all_children))
        )
    )


def describe(node: NodeData) -> str:
    """Return a description of one node in one line."""
    marks = [
        *(["attached"] if node.isolation is Isolation.DO_NOT_PROPAGATE else []),
        *(["dispensable"] if node.isolation is Isolation.PROPAGATE_BEFORE_ALLOCATION else []),
        *(["weak"] if node.is_weak else []),
        *(["ready"] if node.state in READY else []),
        *(["allocated"] if node.has_allocated else []),
    ]
    extra = f" [{', '.join(marks)}]" if marks else ""
    return f"{node.kind.value} {node.number}: {node.client}: {node.state.value}{extra}"


def waiting_for(root: NodeData) -> dict[str, Any]:
    """Return the participants of the initial allocation with their progress, by name and id.

    Orphans without constraints are left out, because they neither block it nor add anything.
    """
    tokens: list[str] = []
    with_constraints: list[str] = []
    without_constraints: list[str] = []
    groups: list[str] = []
    lists = {
        State.TOKEN: tokens,
        State.RELEASED_TOKEN: tokens,
        State.COLLECTION: without_constraints,
        State.RELEASED_COLLECTION: without_constraints,
        State.GROUP: groups,
    }
    for node in giving_way(depth_first(root, joined_children)):
        if node.has_constraints:
            with_constraints.append(str(node.client))
        elif node.state in lists:
            lists[node.state].append(str(node.client))
    return {
        "tokens_not_turned_in": tokens,
        "collections_without_constraints": without_constraints,
        "collections_with_constraints": with_constraints,
        "groups_without_all_children": groups,
    }


def waited_for(root: NodeData) -> list[NodeData]:
    """Return the nodes that block the initial allocation."""
    return [
        node for node in giving_way(depth_first(root, joined_children)) if node.state not in READY
    ]


def held_by(nodes: Iterable[NodeData], processes: Mapping[int, str]) -> list[str]:
    """Return the processes that have the client ends of nodes, for those nodes for which they are known."""
    return [
        f"{node.kind.value} {node.number}: {processes[node.number]}"
        for node in nodes
        if node.number in processes
    ]


def is_group(node: NodeData) -> bool:
    """Return whether a node is a group, connected or not."""
    return node.kind is NodeKind.GROUP
