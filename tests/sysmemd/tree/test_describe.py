"""Nodes and trees as text."""

from __future__ import annotations

from sysmemd.ports import ClientInfo
from sysmemd.tree import describe

from .world import World, wanting


def test_a_tree_shows_every_node_with_its_marks() -> None:
    world = World()
    dispensable = world.token(world.root)
    dispensable.set_dispensable()
    weak = world.token(dispensable)
    weak.set_weak()
    world.ready(world.root, constraints=wanting(0, least=1))
    world.ready(dispensable, weak, constraints=wanting(0))
    world.retire(dispensable)
    world.attach(world.root)
    assert describe.tree(world.root).splitlines() == [
        "collection 1: initiator (1): a collection whose constraints are set [ready, allocated]",
        "  collection 2: initiator (1): an orphan [dispensable, ready, allocated]",
        "    collection 3: initiator (1): a collection whose constraints are set "
        "[weak, ready, allocated]",
        "  token 4: initiator then AttachToken() (1): a token [attached]",
    ]


def test_a_client_cannot_add_lines_to_a_tree() -> None:
    world = World()
    world.root.set_debug_client_info(ClientInfo("a\ntoken 9: b", 7))
    (line,) = describe.tree(world.root).splitlines()
    assert line == r"token 1: a\ntoken 9: b (was initiator) (7): a token"


def test_a_deep_tree_stops_being_indented() -> None:
    world = World()
    node = world.root
    for _ in range(100):
        node = world.token(node)
    lines = describe.tree(world.root).splitlines()
    assert len(lines) == 101
    assert lines[-1].startswith(" " * 2 * describe.MAX_INDENT + "token 101")
